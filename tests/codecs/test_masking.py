"""Masks that can be drawn again, and errors that are counted under them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.codecs.masking import hidden_blocks, masked_mse, masked_sse, visible_mask, visible_tokens
from astromodal.errors import ConfigError


def test_masks_are_a_function_of_seed_step_and_row():
    rows = np.arange(50)
    drawn = hidden_blocks(3, 7, rows, 16, 5)
    assert (drawn.sum(1) == 5).all() and drawn.any(0).all()
    assert (hidden_blocks(3, 7, rows[10:20], 16, 5) == drawn[10:20]).all()
    for other in (hidden_blocks(4, 7, rows, 16, 5), hidden_blocks(3, 8, rows, 16, 5)):
        assert (other != drawn).any()
    assert len({tuple(row) for row in drawn.tolist()}) > 40


def test_every_block_is_hidden_equally_often():
    share = hidden_blocks(0, 1, np.arange(20_000), 8, 3).mean(0)
    assert np.abs(share - 3 / 8).max() < 0.015  # four standard errors


def test_visible_tokens_are_those_of_visible_blocks_in_their_order():
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert visible_tokens(hidden, 2, 3).tolist() == [[3, 4, 5, 9, 10, 11], [0, 1, 2, 3, 4, 5]]
    assert visible_mask(hidden, 2)[0].tolist() == [False, False, True, True, False, False, True, True]


@pytest.mark.parametrize("n_mask", [-1, 5])
def test_more_hidden_blocks_than_there_are_are_refused(n_mask):
    with pytest.raises(ConfigError, match="n_mask from 0 to n_blocks = 4"):
        hidden_blocks(0, 0, np.arange(2), 4, n_mask)


def test_losses_against_the_sum_written_out():
    torch.manual_seed(0)
    x, y, mask = torch.randn(3, 5), torch.randn(3, 5), torch.rand(3, 5) > 0.5
    total = sum(float(x[i, j] - y[i, j]) ** 2 for i, j in np.ndindex(3, 5) if mask[i, j])
    expected = {"sum": total, "mean": total / int(mask.sum()), "batch_mean": total / 3}
    for loss in (masked_mse, masked_sse):
        for reduction, value in expected.items():
            assert float(loss(x, y, mask, reduction=reduction)) == pytest.approx(value, rel=1e-5)
    assert float(masked_mse(x, y, mask)) == pytest.approx(expected["mean"], rel=1e-5)
    assert float(masked_sse(x, y, mask)) == pytest.approx(expected["batch_mean"], rel=1e-5)


def test_weights_multiply_errors_and_divide_the_mean():
    x, y = torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 3)
    mask, ivar = torch.tensor([[True, True, False]]), torch.tensor([[1.0, 3.0, 100.0]])
    assert float(masked_sse(x, y, mask, reduction="sum", weight=ivar)) == 13.0
    assert float(masked_mse(x, y, mask, weight=ivar)) == 13.0 / 4.0
    nothing = masked_mse(x.requires_grad_(), y, mask, weight=torch.zeros(1, 3))
    nothing.backward()
    assert float(nothing.detach()) == 0.0 and torch.equal(x.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("reduction", ["sum", "mean", "batch_mean"])
def test_an_empty_mask_has_loss_zero_and_a_gradient(reduction):
    x = torch.randn(2, 4, requires_grad=True)
    for loss in (masked_mse, masked_sse):
        x.grad = None
        value = loss(x, torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool), reduction=reduction)
        value.backward()
        assert float(value.detach()) == 0.0 and torch.equal(x.grad, torch.zeros(2, 4))


def test_what_lies_beyond_the_mask_has_no_part():
    x, y = torch.ones(1, 3, requires_grad=True), torch.tensor([[0.0, float("nan"), float("inf")]])
    loss = masked_mse(x, y, torch.tensor([[True, False, False]]))
    loss.backward()
    assert float(loss.detach()) == 1.0 and x.grad.tolist() == [[2.0, 0.0, 0.0]]


def test_wrong_reductions_and_shapes_are_refused():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match="a reduction of sum, mean, batch_mean, got 'median'"):
        masked_mse(x, x, mask, reduction="median")
    with pytest.raises(ValueError, match=r"got \(2, 3\), \(2, 3\) and \(3,\)"):
        masked_sse(x, x, mask[0])
