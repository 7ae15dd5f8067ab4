"""The cache of cutouts: a uniform sample of bounded size, and loader batches that keep image and mask together."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from astromodal.data.images import elliptical_mask
from astromodal.errors import ArtifactError
from astromodal.tokenizers.image.cache import CutoutCache, CutoutLoader

SHAPE = (2, 8, 8)
ELLIPSE = {"scale": 1.0, "min_radius": 1.0}


def cutouts(n, start=0):
    """Cutout ``i`` holds the value ``i`` everywhere."""
    x = np.broadcast_to(np.arange(start, start + n, dtype=np.float32)[:, None, None, None], (n, *SHAPE)).copy()
    ellipses = np.stack([np.arange(start, start + n), np.ones(n), np.zeros(n)], axis=1).astype(np.float32)
    return x, np.ones_like(x, bool), ellipses


def kept(cache):
    return cache.take(np.arange(len(cache)))[0][:, 0, 0, 0].numpy().astype(int)


def test_all_cutouts_are_kept_below_the_capacity(tmp_path):
    cache = CutoutCache(tmp_path / "c", 300, SHAPE)
    for start in range(0, 200, 50):
        cache.add(*cutouts(50, start))
    assert kept(cache).tolist() == list(range(200))
    assert cache.ellipses[:200, 0].tolist() == list(range(200))


def test_the_reservoir_is_uniform_and_does_not_depend_on_the_batches(tmp_path):
    samples = []
    for batch in (1, 7, 100):
        cache = CutoutCache(tmp_path / f"c{batch}", 20, SHAPE, seed=3)
        for start in range(0, 200, batch):
            cache.add(*cutouts(min(batch, 200 - start), start))
        assert len(cache) == 20 and cache.n_seen == 200
        assert (cache.ellipses[:20, 0] == kept(cache)).all()
        samples.append(kept(cache).tolist())
    assert samples[0] == samples[1] == samples[2]
    means = []
    for seed in range(60):
        cache = CutoutCache(tmp_path / f"s{seed}", 10, SHAPE, seed=seed)
        cache.add(*cutouts(200))
        means.append(kept(cache).mean())
    assert abs(np.mean(means) - 99.5) < 4 * 57.7 / np.sqrt(600)


def test_float16_keeps_values_and_invalid_pixels_come_back_as_zero(tmp_path):
    rng = np.random.default_rng(0)
    x, valid, ellipses = (
        rng.normal(0, 5, (4, *SHAPE)).astype(np.float32),
        rng.random((4, *SHAPE)) > 0.3,
        np.ones((4, 3)),
    )
    cache = CutoutCache(tmp_path / "c", 10, SHAPE)
    cache.add(x, valid, ellipses)
    cache.release()  # pages handed back are read again from the file
    again, good = cache.take(np.arange(4))
    assert (good.numpy() == valid).all() and (again.numpy()[~valid] == 0).all()
    np.testing.assert_allclose(again.numpy()[valid], x[valid], atol=0.01)
    cache.close()


def test_the_file_has_no_name_that_anything_could_cut_short(tmp_path):
    cache = CutoutCache(tmp_path / "c", 300, SHAPE)
    for start in range(0, 200, 50):
        cache.add(*cutouts(50, start))
        assert list(tmp_path.iterdir()) == []
    assert kept(cache).tolist() == list(range(200))


def test_a_full_disk_is_said_before_anything_is_mapped(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArtifactError, match=r"room on the disk.*max_fit_objects"):
        CutoutCache(tmp_path / "c", 10, SHAPE).add(*cutouts(3))


def test_every_cutout_comes_once_per_epoch_and_epochs_differ_reproducibly(tmp_path):
    cache = CutoutCache(tmp_path / "c", 50, SHAPE)
    cache.add(*cutouts(37))
    loader = CutoutLoader(cache, 8, ELLIPSE, train=True, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == 5
        orders.append(torch.cat([b["x"][:, 0, 0, 0] for b in batches]).tolist())
    assert sorted(orders[0]) == list(range(37)) and orders[0] == orders[2] != orders[1]
    plain = CutoutLoader(cache, 8, ELLIPSE, train=False, limit=10)
    assert torch.cat([b["x"][:, 0, 0, 0] for b in plain]).tolist() == list(range(10))
    assert "seen" not in next(iter(plain))


def test_image_validity_and_mask_are_turned_together(tmp_path):
    n, size = 64, 8
    inside = elliptical_mask(np.full(n, 3.0), np.full(n, 1.2), np.full(n, 30.0), size, 1.0, 1.0)
    x = np.broadcast_to(inside[:, None], (n, *SHAPE)).astype(np.float32)
    valid = np.ones_like(x, bool)
    valid[:, 0, 0, 1] = False
    cache = CutoutCache(tmp_path / "c", n, SHAPE)
    cache.add(x, valid, np.tile([3.0, 1.2, 30.0], (n, 1)))
    batch = next(iter(CutoutLoader(cache, n, ELLIPSE, train=True)))
    assert torch.equal(batch["x"][:, 1].bool(), batch["inside"])
    assert (~batch["valid"][:, 0]).flatten(1).sum(1).tolist() == [1] * n
    assert len(torch.unique(batch["inside"], dim=0)) == 8 // 2 * 2  # no symmetry of the square maps it onto itself
    places = torch.nonzero(~batch["valid"][:, 0])[:, 1:]
    assert len(torch.unique(places, dim=0)) == 8
    assert batch["seen"].shape == (n, 2) and 0.8 < batch["seen"].float().mean() < 1
