"""Probes find what is in the states and nothing else, the label is never shown, neighbours are the true ones."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from astromodal.ask import catalogue
from astromodal.config.schema import HardwareConfig, ScalarConfig, Transform
from astromodal.data.splits import TEST, TRAIN, VAL
from astromodal.errors import ArtifactError, ArtifactMissingError, ConfigError, DataError
from astromodal.probe import similarity
from astromodal.probe.fits import (
    AttentionProbe,
    ProbeOptions,
    RowLoader,
    attention_predictions,
    fit_attention,
    fit_ridge,
    mean_states,
)
from astromodal.probe.probes import judge_probes
from astromodal.probe.similarity import nearest_in_file, nearest_objects
from astromodal.probe.states import HiddenStates, hidden_plan, labelled_objects
from astromodal.vocabulary.vocab import MISS
from tests.ask import hand_built as hand

LIMITS = {TRAIN: 1000, VAL: 1000, TEST: 1000}
SEQUENCE = {"order": "random", "missing": "absent", "next_types": True}
QUICK = ProbeOptions(n_resamples=100, batch_size=32, epochs=12, learning_rates=(0.03,))
LOG10 = ScalarConfig(transform=Transform.log10, unit="K")


class ToyStates:
    """Stored states with padding that is poison: whoever reads it is found out."""

    def __init__(self, hidden: np.ndarray, lengths: np.ndarray) -> None:
        self.width, self._lengths = hidden.shape[2], lengths
        self.hidden = hidden.astype(np.float32)
        self.hidden[np.arange(hidden.shape[1]) >= lengths[:, None]] = 1e4

    def lengths(self) -> np.ndarray:
        return self._lengths

    def __call__(self, rows: np.ndarray):
        return torch.from_numpy(self.hidden[rows]), torch.from_numpy(self._lengths[rows])


def toy(kind: str, n: int = 900, width: int = 12, places: int = 16, seed: int = 0):
    """States that know a label: ``every`` token a little, ``one`` token at a random place, marked, or ``none``."""
    rng = np.random.default_rng(seed)
    label, lengths = rng.normal(size=n), rng.integers(6, places + 1, n)
    hidden = rng.normal(size=(n, places, width))
    if kind == "every":
        hidden += label[:, None, None] * np.linspace(0.5, 1.5, width)
    if kind == "one":  # the other tokens say something else in the same direction
        hidden[:, :, 1] = 0.0
        at = np.arange(n), rng.integers(0, lengths)
        hidden[at[0], at[1], 0], hidden[at[0], at[1], 1] = label, 4.0
    rows = dict(zip((TRAIN, VAL, TEST), np.split(np.arange(n), [n // 2, 3 * n // 4]), strict=True))
    return ToyStates(hidden, lengths), rows, 10.0 ** (3.0 + 0.1 * label)


def judged(kind: str, **changes) -> dict:
    states, rows, values = toy(kind)
    return judge_probes(states, rows, values, LOG10, replace(QUICK, **changes)).figures


def test_the_linear_probe_finds_what_every_token_knows():
    found = judged("every", epochs=2)
    linear = found["probes"]["linear"]
    assert linear["r2"]["low"] < linear["r2"]["value"] < linear["r2"]["high"] and linear["r2"]["value"] > 0.97
    assert linear["mae"]["value"] < 0.2 * found["probes"]["marginal"]["mae"]["value"]
    assert found["probes"]["marginal"]["mae"]["value"] > 100  # kelvin, not standardised
    assert found["attention"]["val_mse"] <= found["linear"]["val_mse"]


def test_the_attention_probe_finds_what_one_token_knows():
    found = judged("one", epochs=40)
    assert found["probes"]["linear"]["r2"]["value"] < 0.4
    assert found["probes"]["attention"]["r2"]["value"] > 0.9
    assert found["attention_minus_linear"]["high"] < 0


def test_what_is_not_there_is_not_found():
    found = judged("none", epochs=40)
    for name in ("linear", "attention"):
        assert found["probes"][name]["r2"]["value"] < 0.05, name
    assert found["attention"]["epochs"]["0.03"] < 40  # and no longer than it takes to see that


def test_a_mean_is_judged_as_a_mean_though_the_probe_predicts_logarithms():
    states, rows, _ = toy("none", n=2000)
    values = np.random.default_rng(5).lognormal(0, 1, 2000)  # the mean is 1.65 times the median
    found = judge_probes(
        states, rows, values, ScalarConfig(transform=Transform.log10), replace(QUICK, epochs=1)
    ).figures
    assert abs(found["probes"]["linear"]["r2"]["value"]) < 0.02  # the median as a mean: about -0.09
    best = np.abs(values[rows[TEST]] - np.median(values[rows[TEST]])).mean()
    assert found["probes"]["linear"]["mae"]["value"] < 1.02 * best  # the mean as a median: about 1.1


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_a_probe_is_as_good_in_every_unit(factor):
    states, rows, values = toy("every", n=400)
    plain, scaled = (
        judge_probes(states, rows, values * f, ScalarConfig(), replace(QUICK, epochs=1)).figures for f in (1.0, factor)
    )
    assert scaled["probes"]["linear"]["r2"]["value"] == pytest.approx(
        plain["probes"]["linear"]["r2"]["value"], abs=1e-6
    )
    assert plain["probes"]["linear"]["r2"]["value"] > 0.9
    mae = [found["probes"]["linear"]["mae"]["value"] for found in (plain, scaled)]
    assert mae[1] == pytest.approx(mae[0] * factor, rel=1e-4)


def test_probing_twice_gives_the_same_numbers_and_another_seed_others():
    options = {"epochs": 2}
    assert judged("one", **options) == judged("one", **options)
    other = judged("one", seed=1, **options)
    assert other["attention"]["val_mse"] != judged("one", **options)["attention"]["val_mse"]


def test_mean_states_are_those_of_the_real_tokens_and_their_moments():
    states, rows, _ = toy("every", n=40)
    pooled, mean, covariance = mean_states(states, rows[VAL], 7)
    real = [states.hidden[i, : states.lengths()[i]].astype(float) for i in rows[VAL]]
    np.testing.assert_allclose(pooled, [tokens.mean(0) for tokens in real], rtol=1e-6)
    np.testing.assert_allclose(mean, np.concatenate(real).mean(0), rtol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(np.concatenate(real).T, ddof=0), rtol=1e-6)


def test_ridge_solves_the_normal_equations_and_leaves_a_constant_feature_out():
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (60, 5))
    x[:, 4] = 7.0
    y = x[:, 0] - 2 * x[:, 1] + 0.5 * rng.normal(size=60)
    probe = fit_ridge(x, y, x, y)
    z = (x - x.mean(0))[:, :4] / x.std(0)[:4]
    expected = np.linalg.solve(z.T @ z + 60 * probe.penalty * np.eye(4), z.T @ (y - y.mean())) / x.std(0)[:4]
    np.testing.assert_allclose(probe.weights, [*expected, 0.0], atol=1e-9)
    assert probe.val_mse == pytest.approx(((probe(x) - y) ** 2).mean()) and probe.penalty == pytest.approx(1e-7)
    noise = rng.normal(size=60)
    assert fit_ridge(x, noise, x, -noise).penalty > 1000  # what does not carry over is penalised away


def test_without_noise_the_attention_probe_is_the_linear_one():
    states, rows, values = toy("every", n=80)
    pooled, *moments = mean_states(states, rows[TRAIN], 16)
    linear = fit_ridge(pooled, values[rows[TRAIN]], pooled, values[rows[TRAIN]])
    probe = AttentionProbe(linear, *moments, 3, seed=0, noise=0.0)
    with torch.no_grad():
        np.testing.assert_allclose(probe(*states(rows[TRAIN])), linear(pooled), rtol=1e-4)


def test_the_probe_ends_with_the_weights_that_were_best_on_validation():
    states, rows, values = toy("none", n=300)  # later epochs only learn by heart
    train, val = ((rows[k], np.log10(values[rows[k]]) * 10 - 30) for k in (TRAIN, VAL))
    pooled, *moments = mean_states(states, train[0], 32)
    linear = fit_ridge(pooled, train[1], mean_states(states, val[0], 32)[0], val[1])
    probe, found = fit_attention(
        states,
        train,
        val,
        linear,
        tuple(moments),
        replace(QUICK, epochs=6),
        HardwareConfig(device="cpu"),
        logging.getLogger(),
    )
    again = ((attention_predictions(probe, states, val[0], 32) - val[1]) ** 2).mean()
    assert again == pytest.approx(found["val_mse"], rel=1e-5) and found["val_mse"] <= linear.val_mse


@pytest.mark.parametrize(("kind", "best"), [("one", 0.3), ("none", 0.003), ("every", None)])
def test_validation_chooses_among_the_learning_rates(kind, best):
    rates = (0.3, 0.003, 0.03)
    alone = {rate: judged(kind, epochs=3, n_resamples=2, learning_rates=(rate,)) for rate in rates}
    together = judged(kind, epochs=3, n_resamples=2, learning_rates=rates)
    errors = {rate: found["attention"]["val_mse"] for rate, found in alone.items()}
    assert together["attention"]["learning_rate"] == best
    assert together["attention"]["val_mse"] == min(errors.values())
    chosen = alone[min(errors, key=errors.get)]
    assert together["probes"] == chosen["probes"] and together["attention"]["is_mean"] == (best is None)
    assert list(together["attention"]["epochs"]) == ["0.3", "0.003", "0.03"]


def test_learning_rates_have_to_be_positive():
    for wrong in ((), (0.1, 0.0)):
        with pytest.raises(ConfigError, match="positive learning rates"):
            replace(QUICK, learning_rates=wrong)


def test_the_loader_shows_every_object_once_in_another_order_every_epoch():
    states, rows, values = toy("every", n=100)
    loader = RowLoader(states, rows[TRAIN], values[rows[TRAIN]], 8, seed=3)
    epochs, together = [], []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        found = list(loader)
        assert len(found) == len(loader)
        together.append({frozenset(batch["rows"].tolist()) for batch in found})
        epochs.append(torch.cat([batch["rows"] for batch in found]).tolist())
        for batch in found:
            np.testing.assert_array_equal(batch["target"], values[batch["rows"]].astype(np.float32))
    assert sorted(epochs[0]) == sorted(epochs[1]) == rows[TRAIN].tolist()
    assert epochs[0] == epochs[2] != epochs[1] and together[0] != together[1]


# ------------------------------------------------------------------------------------------ a real model


def chosen(label="z", given=None, fields=None, limits=LIMITS, seed=0, **sequence):
    plan = hidden_plan(hand.layout(), SEQUENCE | sequence, [label], given)
    fields = [hand.field(120)] if fields is None else fields
    return labelled_objects(fields, hand.layout(), plan, label, hand.COLUMNS[label], limits, seed)


@pytest.mark.parametrize("sequence", [{}, {"order": "fixed"}, {"order": "fixed", "missing": "token"}])
def test_the_label_is_never_among_the_tokens_of_the_model(sequence, monkeypatch):
    objects, engine = chosen(**sequence), hand.engine(16)
    label = hand.layout().vocab.type_of_column("z")
    seen = []
    original = engine.tensor
    monkeypatch.setattr(engine, "tensor", lambda array: seen.append(array) or original(array))
    states = HiddenStates(engine, objects.slots, ["z"])
    states(np.arange(len(objects.ids)))
    tokens, types, *_ = seen
    assert set(tokens[types == label]) <= {MISS} and (types == label).any() == (sequence.get("missing") == "token")
    assert len(np.unique(types)) > 5  # all else is shown


def test_states_do_not_depend_on_the_label_but_on_all_else():
    before = hand.field(120)
    for j, name in enumerate(hand.COLUMNS):
        scalar = dict(before.scalar)
        scalar["tokens"] = scalar["tokens"].copy()
        scalar["tokens"][:, j] = (scalar["tokens"][:, j] + 1) % hand.N_BINS[j]
        hidden = []
        for field in (before, replace(before, scalar=scalar)):
            objects = chosen(fields=[field])
            hidden.append(HiddenStates(hand.engine(), objects.slots, ["z"])(np.arange(len(objects.ids)))[0])
        assert torch.equal(*hidden) == (name == "z"), name


def test_a_plan_that_shows_the_label_is_refused():
    objects = chosen()
    shown = replace(objects.slots, plan=replace(objects.slots.plan, given=objects.slots.plan.given | {"z"}))
    with pytest.raises(DataError, match="z among what is given"):
        HiddenStates(hand.engine(), shown, ["z"])
    with pytest.raises(ConfigError, match="a label that is not given"):
        chosen(given=["z", "sp"])
    assert "z" not in chosen(given=["scalar"]).slots.plan.given
    with pytest.raises(ConfigError, match="something else than z"):
        hidden_plan(hand.layout(("scalar",)), SEQUENCE, ["z"], [])
    with pytest.raises(ConfigError, match="knows"):
        hidden_plan(hand.layout(), SEQUENCE, ["zz"], None)
    with pytest.raises(ConfigError, match="every label once"):
        hidden_plan(hand.layout(), SEQUENCE, ["z", "z"], None)
    both = hidden_plan(hand.layout(), SEQUENCE, ["z", "t"], None)
    assert not {"z", "t"} & both.given and "r" in both.given


def test_objects_are_drawn_up_to_the_cap_and_counted(monkeypatch):
    other = replace(hand.field(80, seed=4), field="F1", ids=np.array([f"other{i}" for i in range(80)]))
    fields = [hand.field(120), other]
    every = chosen(fields=fields)
    has = np.concatenate([f.scalar["present"][:, 1] & (f.split == TRAIN) for f in fields])
    train = every.counts["train"]
    assert train["available"] == has.sum() == train["used"] + train["without_input"]
    few = chosen(fields=fields, limits=LIMITS | {TRAIN: 10})
    assert few.counts["train"] == {
        "available": has.sum(),
        "used": len(few.rows(TRAIN)),
        "without_input": 10 - len(few.rows(TRAIN)),
    }
    assert set(few.ids) < set(every.ids) and len({name[:3] for name in few.ids[few.rows(TRAIN)]}) == 2
    assert set(chosen(fields=fields, limits=LIMITS | {TRAIN: 10}, seed=1).ids) != set(few.ids)
    values = dict(
        zip(
            np.concatenate([f.ids for f in fields]),
            np.concatenate([f.scalar["values"][:, 1] for f in fields]),
            strict=True,
        )
    )
    assert every.values.tolist() == [values[name] for name in every.ids]
    assert every.ids.tolist() == [fields[number].ids[row] for number, row in every.places]
    monkeypatch.setattr("astromodal.probe.states.SLOT_CELLS", 100)  # windows of a few objects
    again = chosen(fields=fields)
    assert (again.slots.tokens == every.slots.tokens).all() and (again.ids == every.ids).all()


def test_without_a_test_split_half_of_validation_is_judged():
    field = hand.field(120)
    field.split[field.split == TEST] = VAL
    objects = chosen(fields=[field])
    assert objects.counts["test"]["used"] == 0
    assert len(objects.rows(TEST)) + len(objects.rows(VAL)) == objects.counts["val"]["used"]
    assert min(len(objects.rows(TEST)), len(objects.rows(VAL))) > 5
    field.split[:] = TRAIN
    with pytest.raises(DataError, match="at least 2 objects with z to choose by"):
        chosen(fields=[field])


# -------------------------------------------------------------------------------------------- similarity


def embedded(n: int = 300, width: int = 6):
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(n, width)).astype(np.float32)
    embeddings[10] = np.nan
    embeddings[50] = 2 * embeddings[51]  # the same direction
    return embeddings, np.array([f"o{i}" for i in range(n)])


def by_hand(embeddings, ids, query: str, k: int) -> tuple[list[str], list[float]]:
    q = embeddings[list(ids).index(query)].astype(float)
    found = []
    for place, (name, e) in enumerate(zip(ids, embeddings.astype(float), strict=True)):
        if name != query and np.isfinite(e).all():
            found.append((-(q @ e) / np.sqrt((q @ q) * (e @ e)), place, name))
    found.sort()
    return [name for *_, name in found[:k]], [-c for c, *_ in found[:k]]


@pytest.mark.parametrize("cells", [1 << 23, 60])
def test_neighbours_are_those_of_brute_force_whatever_the_chunks(cells, monkeypatch, tmp_path):
    monkeypatch.setattr(similarity, "_CHUNK_CELLS", cells)
    embeddings, ids = embedded()
    queries = ["o3", "o50", "o299", "o3"]
    schema = catalogue.make_schema([pa.field("embedding_mean", pa.list_(pa.float32(), 6))], {})
    with catalogue.writing_catalogue(tmp_path / "embeddings.parquet", schema) as out:
        for at in (slice(0, 100), slice(100, 300)):
            out.append({"id": ids[at], "field": ids[at], "split": ids[at], "embedding_mean": embeddings[at]})
    for found in (nearest_objects(embeddings, ids, queries, 7), nearest_in_file(tmp_path, queries, 7)):
        for query, names, cosines in zip(queries, found.ids, found.cosines, strict=True):
            expected = by_hand(embeddings, ids, query, 7)
            assert names.tolist() == expected[0]
            np.testing.assert_allclose(cosines, expected[1], atol=1e-6)
        assert found.ids[1, 0] == "o51" and found.cosines[1, 0] == pytest.approx(1)


def test_equal_neighbours_come_in_the_order_of_the_file_and_missing_ones_are_empty(monkeypatch):
    embeddings, ids = np.tile([[1.0, 2.0]], (9, 1)), np.array(list("abcdefghi"))
    for cells in (4, 1 << 20):
        monkeypatch.setattr(similarity, "_CHUNK_CELLS", cells)
        assert nearest_objects(embeddings, ids, ["c"], 4).ids.tolist() == [["a", "b", "d", "e"]]
        nearer = np.where(np.isin(ids, ["c", "h"])[:, None], [[1.0, 0.0]], embeddings)
        assert nearest_objects(nearer, ids, ["c"], 3).ids.tolist() == [["h", "a", "b"]]
        found = nearest_objects(embeddings[:3], ids[:3], ["c"], 4)
        assert found.ids.tolist() == [["a", "b", "", ""]] and np.isnan(found.cosines[0, 2:]).all()


def test_queries_that_cannot_be_answered_are_said(tmp_path):
    embeddings, ids = embedded()
    with pytest.raises(DataError, match="unknown: nobody"):
        nearest_objects(embeddings, ids, ["o1", "nobody"])
    with pytest.raises(DataError, match="none for o10"):
        nearest_objects(embeddings, ids, ["o10"])
    with pytest.raises(ConfigError, match="k of 1"):
        nearest_objects(embeddings, ids, ["o1"], 0)
    with pytest.raises(ArtifactMissingError, match="embeddings"):
        nearest_in_file(tmp_path, ["o1"])
    (tmp_path / "embeddings.parquet").write_bytes(b"no parquet")
    with pytest.raises(ArtifactError, match="embeddings written by"):
        nearest_in_file(tmp_path, ["o1"])
