"""Batches against an obvious implementation: padding, order of the parts, values."""

import pickle

import numpy as np
import pytest
import torch

from astromodal.errors import ConfigError
from astromodal.sequences import SequenceDataset
from astromodal.sequences.dataset import part_draws


def one_sequence(packed, split, index, order, seed, epoch):
    """Tokens and types of one object, with its parts sorted by their draws."""
    arrays = packed.split(split)
    first, last = arrays["offsets"][index : index + 2]
    pairs = list(zip(arrays["tokens"][first:last].tolist(), arrays["types"][first:last].tolist(), strict=True))
    if order == "random":
        parts = {}
        for pair in pairs[1:-1]:
            parts.setdefault(pair[1], []).append(pair)
        row = packed.first_index(split) + index
        draws = part_draws(seed, epoch, np.array([row]), 8)[0].tolist()
        ranked = sorted(parts, key=draws.__getitem__)
        pairs = [pairs[0], *(pair for part in ranked for pair in parts[part]), pairs[-1]]
    return pairs


@pytest.mark.parametrize("order", ["fixed", "random"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_batch_equals_the_one_built_object_by_object(packed, order, split):
    dataset = SequenceDataset(packed, split, order=order, seed=5, max_len=19, with_values=True)
    rng = np.random.default_rng(0)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        indices = rng.permutation(len(dataset))[: rng.integers(1, 17)]
        batch = dataset.__getitems__(indices.tolist())
        sequences = [one_sequence(packed, split, i, order, 5, epoch) for i in indices]
        longest = max(map(len, sequences))
        assert batch["tokens"].shape[1] == min(-(-longest // 8) * 8, 19)
        assert batch["tokens"].dtype == batch["types"].dtype == torch.int64 and batch["attn_mask"].dtype == torch.bool
        for b, pairs in enumerate(sequences):
            padding = batch["tokens"].shape[1] - len(pairs)
            assert batch["tokens"][b].tolist() == [token for token, _ in pairs] + [0] * padding
            assert batch["types"][b].tolist() == [type_ for _, type_ in pairs] + [0] * padding
            assert batch["attn_mask"][b].tolist() == [True] * len(pairs) + [False] * padding
        assert batch["object_index"].tolist() == (packed.first_index(split) + indices).tolist()
        values = packed.split(split)["scalar_values"][indices]
        assert np.array_equal(batch["scalar_values"].numpy(), values, equal_nan=True)


def test_random_orders_differ_between_objects_and_epochs_and_repeat_with_the_seed(packed):
    def types(seed, epoch):
        dataset = SequenceDataset(packed, "train", order="random", seed=seed)
        dataset.set_epoch(epoch)
        return dataset.__getitems__(np.arange(len(dataset)))["types"]

    assert torch.equal(types(0, 1), types(0, 1))
    assert not torch.equal(types(0, 1), types(0, 2)) and not torch.equal(types(0, 1), types(1, 1))
    first_parts = types(0, 0)[:, 1]
    assert len(first_parts.unique()) > 3  # every kind of part comes first somewhere


def test_every_order_of_the_parts_is_equally_likely():
    ranks = np.argsort(part_draws(0, 0, np.arange(24_000), 4), axis=1)
    _, counts = np.unique(ranks @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(counts) == 24 and ((counts - 1000.0) ** 2 / 1000).sum() < 50  # chi2 of 23 degrees of freedom


def test_the_order_of_an_object_does_not_depend_on_its_batch(packed):
    dataset = SequenceDataset(packed, "train", order="random", seed=1)
    alone, together = dataset[7], dataset.__getitems__([3, 7, 9])
    length = int(alone["attn_mask"].sum())
    assert alone["types"][0, :length].tolist() == together["types"][1, :length].tolist()


def test_object_indices_are_unique_over_the_splits(packed):
    indices = [SequenceDataset(packed, s)[i]["object_index"].item() for s in ("train", "val", "test") for i in (0, 1)]
    assert len(set(indices)) == 6


def test_lengths_are_those_of_the_sequences(packed):
    dataset = SequenceDataset(packed, "train")
    lengths = np.asarray(dataset.lengths)
    batch = dataset.__getitems__(np.arange(len(dataset)))
    assert batch["attn_mask"].sum(1).tolist() == lengths.tolist() == dataset.lengths[:].tolist()
    assert dataset.lengths[np.array([4, 2])].tolist() == lengths[[4, 2]].tolist()


def test_a_dataset_is_sent_to_a_worker_without_its_arrays(packed):
    dataset = SequenceDataset(packed, "train", order="random", seed=3, with_values=True)
    text = pickle.dumps(dataset)
    assert len(text) < 20_000
    again = pickle.loads(text)
    for name, tensor in dataset.__getitems__([1, 2]).items():
        assert torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(again.__getitems__([1, 2])[name]))


def test_an_unknown_order_is_refused(packed):
    with pytest.raises(ConfigError, match="fixed, random or ask"):
        SequenceDataset(packed, "train", order="shuffled")
