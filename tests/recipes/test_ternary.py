"""Ternary operations: digits and valuations against loops, and the loader's order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.errors import ConfigError, DataError
from astromodal.recipes.ternary.operations import (
    N_OPERATIONS,
    OperationLoader,
    TernaryOperations,
    count_trits,
    operation_index,
    operation_trits,
    valuation,
)


def slow_trits(n: int) -> list[int]:
    trits = []
    for _ in range(9):
        trits.append(n % 3 - 1)
        n //= 3
    return trits


def slow_valuation(n: int) -> int:
    if n == 0:
        return 9
    power = 0
    while n % 3 == 0:
        n, power = n // 3, power + 1
    return power


def test_digits_of_all_operations_against_a_loop():
    trits = operation_trits(np.arange(N_OPERATIONS))
    assert trits.tolist() == [slow_trits(n) for n in range(N_OPERATIONS)]
    assert (operation_index(trits) == np.arange(N_OPERATIONS)).all()
    assert len(np.unique(trits, axis=0)) == N_OPERATIONS == 19683


def test_valuations_against_a_loop_and_their_counts():
    found = valuation(np.arange(N_OPERATIONS))
    assert found.tolist() == [slow_valuation(n) for n in range(N_OPERATIONS)]
    assert np.bincount(found).tolist() == [13122, 4374, 1458, 486, 162, 54, 18, 6, 2, 1]
    assert (valuation(-np.arange(N_OPERATIONS)) == found).all()


def test_the_valuation_is_the_number_of_leading_digits_zero_and_an_ultrametric():
    leading = np.cumprod(operation_trits(np.arange(N_OPERATIONS)) == -1, axis=1).sum(1)
    assert (valuation(np.arange(N_OPERATIONS)) == leading).all()
    a, b, c = np.random.default_rng(0).integers(0, N_OPERATIONS, (3, 4000))
    assert (valuation(a - c) >= np.minimum(valuation(a - b), valuation(b - c))).all()


@pytest.mark.parametrize("wrong", [[-1], [19683], [0.5]])
def test_numbers_of_no_operation_are_refused(wrong):
    with pytest.raises(DataError, match="0 to 19682"):
        operation_trits(wrong)


def test_other_mistakes_are_refused():
    with pytest.raises(DataError, match="-1, 0 or 1"):
        operation_index([2, 0])
    for wrong in (0, 1, 19682, 3**13):
        with pytest.raises(ConfigError, match="a power of 3"):
            count_trits(wrong)
    with pytest.raises(ConfigError, match="batch size"):
        OperationLoader(2, 0)


def test_the_dataset_works_in_a_data_loader():
    numbers = torch.cat(list(torch.utils.data.DataLoader(TernaryOperations(3), batch_size=5, shuffle=True)))
    assert sorted(numbers.tolist()) == list(range(27)) and numbers.dtype == torch.int64
    one_hot = torch.cat(list(torch.utils.data.DataLoader(TernaryOperations(3, one_hot=True), batch_size=5)))
    assert torch.equal(one_hot, torch.eye(27))
    with pytest.raises(IndexError):
        TernaryOperations(3)[27]


def test_the_loader_goes_through_all_operations_in_an_order_of_seed_and_epoch():
    loader = OperationLoader(4, 10, seed=3)
    first = [batch["index"] for batch in loader]
    assert len(first) == len(loader) == 9 and sorted(torch.cat(first).tolist()) == list(range(81))
    assert torch.equal(torch.cat(first), torch.cat([batch["index"] for batch in loader]))
    loader.set_epoch(1)
    second = [batch["index"] for batch in loader]
    assert not torch.equal(torch.cat(first), torch.cat(second))
    loader.start_at(4)
    assert torch.equal(torch.cat([batch["index"] for batch in loader]), torch.cat(second[4:]))
    assert torch.cat([b["index"] for b in OperationLoader(2, 4, shuffle=False)]).tolist() == list(range(9))
