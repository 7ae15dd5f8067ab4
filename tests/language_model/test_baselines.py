"""The two trivial predictors against slow per-token loops."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.language_model.baselines import TypeEntries, baseline_metrics, index_in_run, previous_metrics
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import BOS, EOS, NONDET, build_vocab_spec


@pytest.fixture
def world():
    rng = np.random.default_rng(3)
    vocab = build_vocab_spec(6, 5, 4, spectrum_groups=("arm",), scalar_columns=("mag", "z"), n_bins=(5, 3))
    image = Codebook(rng.normal(size=(6, 2)), rng.integers(1, 9, 6))
    arm = Codebook(rng.normal(size=(4, 3)), rng.integers(1, 9, 4))
    centers = np.array([[1.0, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0, 0]])
    scalars = ScalarCodebook(("mag", "z"), centers, np.array([[1, 2, 3, 2, 1], [4, 4, 4, 0, 0]]), np.array([5, 3]))
    entries = TypeEntries(vocab, image, {"arm": arm}, scalars)
    return vocab, entries, rng


def random_rows(vocab, rng, n):
    """Rows of (token, type) lists; columns, arm and image are each absent from some."""
    rows = []
    for _ in range(n):
        row = [(BOS, 0)]
        for j, bins in enumerate((5, 3)):
            if rng.random() < 0.7:
                token = NONDET if rng.random() < 0.2 else vocab.block("scalar").start + rng.integers(bins)
                row.append((int(token), vocab.first_column_type + j))
        if rng.random() < 0.5:
            row += [(int(vocab.block("arm").start + rng.integers(4)), 2) for _ in range(3)]
        if rng.random() < 0.6:
            row += [(int(vocab.block("image").start + rng.integers(6)), 1) for _ in range(4)]
        rows.append([*row, (EOS, 0)])
    return rows


def as_chunks(rows, size):
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        flat = np.array([pair for row in part for pair in row])
        yield flat[:, 0], flat[:, 1], np.cumsum([0] + [len(row) for row in part])


def slow_previous(rows, vocab, entries):
    last, hits, errors, n = {}, {}, {}, {}
    names, modalities = vocab.type_names, vocab.modality_of_type()
    for row in rows:
        index = {}
        for token, type_ in row:
            place = (type_, index.setdefault(type_, 0))
            index[type_] += 1
            if token < 5:
                continue
            if place in last:
                start, vectors = entries.blocks[type_]
                distance = ((vectors[token - start] - vectors[last[place] - start]) ** 2).sum()
                for name in {names[type_], modalities[type_]}:
                    hits[name] = hits.get(name, 0) + (token == last[place])
                    errors[name] = errors.get(name, 0.0) + distance
                    n[name] = n.get(name, 0) + 1
            last[place] = token
    return {f"accuracy_{k}": hits[k] / n[k] for k in n} | {f"error_{k}": errors[k] / n[k] for k in n}


@pytest.mark.parametrize("size", [1, 7, 100])
def test_previous_object_agrees_with_a_loop_for_any_chunk_size(world, size):
    vocab, entries, rng = world
    rows = random_rows(vocab, rng, 60)
    fast = previous_metrics(as_chunks(rows, size), vocab, entries, max_len=16)
    for key, value in slow_previous(rows, vocab, entries).items():
        assert fast[key] == pytest.approx(value), key


def test_marginal_agrees_with_a_loop(world):
    vocab, entries, rng = world
    train, held_out = random_rows(vocab, rng, 200), random_rows(vocab, rng, 50)

    class Again:
        def __iter__(self):
            return as_chunks(held_out, 9)

    fast = baseline_metrics(as_chunks(train, 13), Again(), vocab, entries, max_len=16)["marginal"]
    counts = {}
    for row in train:
        for token, type_ in row[1:]:
            counts.setdefault(type_, {}).setdefault(token, 0)
            counts[type_][token] += 1
    total = hit = error = n = 0.0
    start, vectors = entries.blocks[1]
    seen = np.array([counts[1].get(start + c, 0) for c in range(6)], float)
    mean = (seen / seen.sum()) @ vectors
    for row in held_out:
        for token, type_ in row:
            if type_ == 1:
                total -= np.log((counts[1].get(token, 0) + 1) / (seen.sum() + 6 + 5))
                hit += token - start == seen.argmax()
                error += ((vectors[token - start] - mean) ** 2).sum()
                n += 1
    assert fast["ce_image"] == pytest.approx(total / n, rel=1e-5)
    assert fast["accuracy_image"] == pytest.approx(hit / n)
    assert fast["error_image"] == pytest.approx(error / n)


def test_the_marginal_error_of_the_training_distribution_itself_is_one(world):
    vocab, _, _ = world
    image = Codebook(np.random.default_rng(0).normal(size=(6, 2)), np.array([3, 1, 4, 1, 5, 9]))
    entries = TypeEntries(vocab, image, {}, None)
    rows = [[(BOS, 0), (vocab.block("image").start + c, 1)] for c in range(6) for _ in range(int(image.counts[c]))]

    class Again:
        def __iter__(self):
            return as_chunks(rows, 5)

    metrics = baseline_metrics(as_chunks(rows, 5), Again(), vocab, entries, max_len=4)["marginal"]
    assert metrics["error_image"] == pytest.approx(1.0)


def test_index_in_run_restarts_at_every_row():
    assert index_in_run(np.array([1, 1, 1, 1]), np.array([0, 2, 4])).tolist() == [0, 1, 0, 1]
