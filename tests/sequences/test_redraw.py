"""Shown scalars are drawn anew within their errors; what is predicted stays as it was observed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from astromodal.config.schema import ScalarConfig, Transform
from astromodal.data.scalars import inverse_transform, transform
from astromodal.loss.shifting import shift
from astromodal.quantizers import QuantileBinner
from astromodal.sequences.redraw import Redraw
from astromodal.vocabulary.vocab import BOS, EOS, NONDET, build_vocab_spec

CONFIGS = {"mag": ScalarConfig(), "flux": ScalarConfig(transform=Transform.log10)}
VOCAB = build_vocab_spec(0, 64, {"xp": 9}, scalar_columns=tuple(CONFIGS))
N = 4000


def survey() -> tuple[SimpleNamespace, dict[str, np.ndarray]]:
    """A scalar tokenizer, and sequences of BOS, two scalars, two codes of a spectrum and EOS; all of one brightness."""
    rng = np.random.default_rng(0)
    binners = [QuantileBinner(64, 1).fit(rng.normal(0, 1, 5000).astype(np.float32)) for _ in CONFIGS]
    scale = np.array([1.0, 0.5])
    scalar = SimpleNamespace(
        columns=tuple(CONFIGS), configs=CONFIGS, binners=binners, codebook=SimpleNamespace(scale=scale)
    )
    physical = np.array([0.3, float(inverse_transform(np.array([-0.2]), CONFIGS["flux"])[0])])
    bins = [binners[j].encode(np.float32([[0.3, -0.2][j]]))[0] for j in range(2)]
    codes = [VOCAB.base_scalar + bins[0], VOCAB.base_scalar + bins[1], VOCAB.base_spectrum, VOCAB.base_spectrum]
    sequence = [BOS, *codes, EOS]
    types = [0, *(VOCAB.type_of_column(c) for c in CONFIGS), 2, 2, 0]
    batch = {
        "tokens": np.tile(np.array(sequence), (N, 1)),
        "types": np.tile(types, (N, 1)),
        "sigma": np.tile(np.float32([0, 0.4, 0.6, 0.5, 0.5, 0]), (N, 1)),
        "values": np.tile(physical.astype(np.float32), (N, 1)),
        "object_index": np.arange(N),
    }
    return scalar, batch


def test_what_is_shown_is_the_value_and_a_multiple_of_its_error():
    scalar, batch = survey()
    for amount in (1.0, 0.5):
        shown = Redraw(scalar, VOCAB, amount, 7)(**batch, epoch=3)
        for j, (x, e) in enumerate(((0.3, 0.4 * 1.0), (-0.2, 0.6 * 0.5))):
            drawn = np.random.default_rng(1).normal(x, amount * e, 200_000).astype(np.float32)
            expected = np.bincount(scalar.binners[j].encode(drawn), minlength=64) / len(drawn)
            found = np.bincount(shown[:, 1 + j] - VOCAB.base_scalar, minlength=64) / N
            assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() < 1.95 / np.sqrt(N)  # Kolmogorov: one in 1000
        assert abs(np.corrcoef(shown[:, 1], shown[:, 2])[0, 1]) < 0.06
        assert np.array_equal(shown[:, [0, 3, 4, 5]], batch["tokens"][:, [0, 3, 4, 5]])


def test_a_draw_is_of_seed_epoch_object_and_column_whatever_else_is_in_the_batch():
    scalar, batch = survey()
    whole = Redraw(scalar, VOCAB, 1.0, 7)(**batch, epoch=3)
    some = np.array([5, 17, 900])
    again = Redraw(scalar, VOCAB, 1.0, 7)(**{name: x[some] for name, x in batch.items()}, epoch=3)
    assert np.array_equal(again, whole[some])
    for other in (Redraw(scalar, VOCAB, 1.0, 7)(**batch, epoch=4), Redraw(scalar, VOCAB, 1.0, 8)(**batch, epoch=3)):
        assert (other != whole)[:, 1:3].mean() > 0.5


def test_what_has_no_error_or_no_value_is_shown_as_it_is_and_nothing_is_changed_in_place():
    scalar, batch = survey()
    batch["tokens"][:2, 1] = NONDET
    batch["sigma"][2:4] = 0
    before = batch["tokens"].copy()
    shown = Redraw(scalar, VOCAB, 1.0, 7)(**batch, epoch=0)
    assert np.array_equal(shown[:2, 1], before[:2, 1]) and np.array_equal(shown[2:4], before[2:4])
    assert np.array_equal(batch["tokens"], before) and (shown != before).any()
    assert np.isfinite(transform(batch["values"][:, 1], CONFIGS["flux"])).all()


def test_targets_are_what_was_observed():
    tokens = torch.tensor([[BOS, 7, 8, EOS]])
    batch = {"tokens": tokens, "types": tokens * 0, "attn_mask": tokens > 0, "shown": torch.tensor([[BOS, 9, 8, EOS]])}
    part = shift(batch)
    assert part["tokens"].tolist() == [[BOS, 9, 8]] and part["targets"].tolist() == [[7, 8, EOS]]
    assert "shown" not in part
