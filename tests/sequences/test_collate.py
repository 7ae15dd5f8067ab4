"""The sampler: every index once, little padding, resumable, shared fairly; the loader in one process and in several."""

import numpy as np
import pytest
import torch

from astromodal.errors import DataError
from astromodal.sequences import BucketSampler, SequenceDataset, SequenceLoader, build_layout, build_sequences
from astromodal.sequences.collate import permuted
from astromodal.tokens import TokenStore, encode_survey
from tests.tokens.fake_survey import FakeTokenizers, make_survey


def realistic_lengths(n, seed=0):
    """Catalogue only, with an XP spectrum, with a cutout, with everything: as a survey mixes them."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, n, p=[0.5, 0.15, 0.3, 0.05])
    return np.array([0, 22, 576, 848])[kind] + rng.integers(12, 42, n)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000, 4097])
def test_the_permutation_is_one_and_differs_by_seed_and_epoch(n):
    images = permuted(np.arange(n), n, 3, 1)
    assert sorted(images.tolist()) == list(range(n))
    assert np.array_equal(permuted(np.arange(n)[n // 2 :], n, 3, 1), images[n // 2 :])
    if n > 60:
        assert (images == permuted(np.arange(n), n, 3, 2)).mean() < 0.1
        assert (images == permuted(np.arange(n), n, 4, 1)).mean() < 0.1
        assert abs(np.corrcoef(np.arange(n), images)[0, 1]) < 0.3


@pytest.mark.parametrize(
    "n, batch_size, world_size", [(1, 4, 1), (100, 16, 1), (1000, 16, 3), (1003, 8, 4), (5, 16, 2)]
)
def test_every_index_comes_exactly_once_and_ranks_have_equally_many_batches(n, batch_size, world_size):
    lengths = realistic_lengths(n)
    for epoch in range(2):
        batches = []
        for rank in range(world_size):
            sampler = BucketSampler(
                lengths, batch_size, seed=2, rank=rank, world_size=world_size, pool_batches=8 * world_size
            )
            sampler.set_epoch(epoch)
            mine = list(sampler)
            assert len(mine) == len(sampler)
            batches.append(mine)
        assert len({len(mine) for mine in batches}) == 1
        everything = np.concatenate([b for mine in batches for b in mine])
        assert sorted(everything.tolist()) == list(range(n))
        assert all(1 <= len(b) <= batch_size for mine in batches for b in mine)


def test_drop_last_gives_full_batches_only():
    sampler = BucketSampler(realistic_lengths(1000), 16, drop_last=True, pool_batches=16)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 1000 // 16 and {len(b) for b in batches} == {16}
    assert len(np.unique(np.concatenate(batches))) == 16 * len(batches)


@pytest.mark.parametrize("n", [3000, 60_000])
def test_padding_is_below_two_per_cent_on_a_realistic_mixture(n):
    lengths = realistic_lengths(n)
    real, padded = 0, 0
    for batch in BucketSampler(lengths, 16, seed=1):
        real += lengths[batch].sum()
        padded += len(batch) * -(-lengths[batch].max() // 8) * 8
    assert 1 - real / padded < 0.02


def test_epochs_differ_with_shuffling_and_are_equal_without():
    def draw(shuffle, epoch, seed=0):
        sampler = BucketSampler(realistic_lengths(300), 16, seed=seed, shuffle=shuffle)
        sampler.set_epoch(epoch)
        return np.concatenate(list(sampler)).tolist()

    assert draw(True, 0) == draw(True, 0) != draw(True, 1)
    assert draw(True, 0) != draw(True, 0, seed=1)
    assert draw(False, 0) == draw(False, 5)


def test_the_order_of_batches_is_not_the_order_of_lengths():
    lengths = realistic_lengths(5000)
    longest = np.array([lengths[b].max() for b in BucketSampler(lengths, 16)])
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.2


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9, 30, None])
def test_a_resumed_epoch_goes_on_with_the_batches_that_remained(start):
    sampler = BucketSampler(realistic_lengths(530), 16, seed=4, pool_batches=8)
    sampler.set_epoch(3)
    whole = [b.tolist() for b in sampler]
    start = len(whole) if start is None else start
    resumed = BucketSampler(realistic_lengths(530), 16, seed=4, pool_batches=8)
    resumed.load_state_dict({"epoch": 3, "next_batch": start})
    assert [b.tolist() for b in resumed] == whole[start:]
    assert [b.tolist() for b in resumed] == whole  # the position counts for one iteration only


def test_impossible_requests_are_refused():
    with pytest.raises(DataError, match="at least 4 sequences, got 3"):
        BucketSampler(np.ones(3, int), 2, world_size=4)
    with pytest.raises(DataError, match="at least 1 sequences, got 0"):
        BucketSampler(np.ones(0, int), 2)
    with pytest.raises(DataError, match="from 0 to 2"):
        BucketSampler(np.ones(3, int), 2).start_at(3)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    cubes, splits, data = make_survey(folder)
    encode_survey(cubes, FakeTokenizers(), splits, data, folder / "store")
    return build_sequences(
        TokenStore(folder / "store"), build_layout(FakeTokenizers(), ["scalar", "spectrum", "image"])
    )


def loader_for(packed, **options):
    dataset = SequenceDataset(packed, "train", order="random", seed=9)
    return SequenceLoader(dataset, BucketSampler(dataset.lengths, 8, seed=9, pool_batches=4), **options)


def collect(loader, epoch, start=0):
    loader.set_epoch(epoch)
    loader.start_at(start)
    return [(b["object_index"].tolist(), b["tokens"].tolist()) for b in loader]


def test_an_epoch_holds_every_object_of_the_split_once(packed):
    loader = loader_for(packed)
    objects = [i for indices, _ in collect(loader, 0) for i in indices]
    assert sorted(objects) == list(range(packed.n_rows("train")))
    assert len(loader) == len(collect(loader, 1))


def test_worker_processes_give_the_same_batches_in_every_epoch(packed):
    alone, several = loader_for(packed), loader_for(packed, num_workers=2, persistent_workers=True)
    for epoch in range(2):  # the order within a sequence changes with the epoch, in the workers too
        assert collect(several, epoch) == collect(alone, epoch)
    assert collect(alone, 0) != collect(alone, 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_loader_gives_the_remaining_batches(packed, num_workers):
    whole = collect(loader_for(packed), 2)
    assert collect(loader_for(packed, num_workers=num_workers), 2, start=5) == whole[5:]


def test_the_loader_works_without_a_gpu_when_pinning_is_asked_for(packed):
    loader = loader_for(packed, pin_memory=True)
    assert loader.pin_memory == torch.cuda.is_available()
    assert len(collect(loader, 0)) == len(loader)
