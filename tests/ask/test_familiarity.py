"""How surprising what is given is: against a plain forward pass, and on a shift made on purpose."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from astromodal.ask import catalogue as cat
from astromodal.ask.familiarity import Familiarity, Surprises, fit_familiarity, percentiles
from astromodal.ask.prediction import write_predictions
from astromodal.ask.questions import plan_questions
from astromodal.ask.seen import TrainingRun
from astromodal.config.schema import JudgeConfig
from astromodal.errors import ArtifactMissingError
from astromodal.judge.report import judge_catalogue
from astromodal.models import CausalTransformerLM
from astromodal.sequences.layout import SequenceLayout
from astromodal.tokens.store import FieldTokens
from astromodal.vocabulary.vocab import build_vocab_spec

from . import hand_built as hand
from .test_corrections import predictor
from .toy_sky import SIGMA, ToyStore, write_catalogue

CODES = dict(zip(hand.COLUMNS, hand.N_BINS, strict=True)) | hand.SIZES | {"image": 10}


def surprises(asked=None, batch_size: int = 64) -> Surprises:
    return Surprises(hand.engine(batch_size), hand.layout(), asked or hand.plan(), CODES, 1000)


@pytest.mark.parametrize("order", ["random", "ask"])
def test_surprises_are_log_probabilities_of_what_stands_before(order):
    """Token by token in plain Python: the softmax over the block, from the states of a whole forward pass."""
    asked = hand.plan(order=order, given=["scalar", "xp"], predict=["z"])
    found = surprises(asked, batch_size=5)
    tokens, rows, vocab = hand.field(), np.array([0, 2, 3, 7, 20]), hand.layout().vocab
    nats, part = found.of(tokens, rows)
    [question] = asked.questions
    weight = hand.model().head_weight
    for i, row in enumerate(rows):
        one = hand.prefix(tokens, row, replace(asked, ask=False), question)
        states = hand.states(hand.model(), one, 0)
        expected = []
        for place in range(1, len(one.tokens)):
            name = next(s.name for s in asked.order if s.type == one.types[place])
            first = vocab.block("scalar" if name in hand.COLUMNS else name).start
            logits = states[place - 1] @ weight[first : first + CODES[name]].T
            if first <= one.tokens[place] < first + CODES[name]:  # not an undetected one
                expected.append(float(-logits.detach().log_softmax(-1)[one.tokens[place] - first]))
        assert nats[i][np.isfinite(nats[i])] == pytest.approx(expected, rel=1e-4)
    assert "z" not in {found.parts[k - 1] for k in np.unique(part[np.isfinite(nats).any(0)])}  # it is asked


def test_all_that_is_given_counts_and_what_is_only_asked_does_not():
    assert surprises(hand.plan()).plan.given == frozenset(s.name for s in hand.layout().segments)
    assert surprises(hand.plan(given=["r", "t"], predict=["z"])).plan.given == {"r", "t"}
    assert surprises(hand.plan(given=["r", "t"], predict=["z", "t"])).plan.given == {"r", "t"}


def test_too_few_validation_objects_are_said():
    tokens = replace(hand.field(), split=np.zeros(23, np.uint8))
    with pytest.raises(ArtifactMissingError, match="familiarity"):
        Familiarity.fit(surprises(), [tokens])


# ------------------------------------------------------------------------------ a shift made on purpose

BINS, NAMES = 16, ("a", "b", "c", "d")


def sky(n: int, seed: int, stranger: bool = False) -> FieldTokens:
    """Four columns whose bins follow each other; a stranger's third runs the other way. Each alone is uniform."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, BINS, n)
    bins = (first[:, None] + rng.integers(-1, 2, (n, 4)) + np.arange(4)) % BINS
    if stranger:
        bins[:, 2] = (-bins[:, 2]) % BINS
    present = rng.random((n, 4)) < 0.9
    present[0] = False
    values = bins.astype(np.float32)
    scalar = {
        "tokens": bins.astype(np.uint16),
        "present": present,
        "nondetected": ~present & False,
        "clipped": ~present & False,
        "values": values,
        "errors": values * np.nan,
        "sigma": np.zeros((n, 4), np.float16),
    }
    ids = np.array([f"{seed}-{i}" for i in range(n)])
    return FieldTokens("F", ids, np.ones(n, np.uint8), NAMES, scalar)


@pytest.fixture(scope="module")
def knowing() -> Familiarity:
    """A small model trained on such objects in the order in which it is shown, and their validation objects."""
    vocab = build_vocab_spec(0, BINS, {}, (), NAMES, (BINS,) * 4)
    layout = SequenceLayout(vocab, ("scalar",), NAMES, {}, 0, 16)
    asked = plan_questions(
        layout, order="random", missing="absent", next_types=True, given=["a", "b", "c"], predict=["d"]
    )
    torch.manual_seed(0)
    network = CausalTransformerLM(vocab.vocab_size, vocab.n_types, 32, 1, 2, 64, max_len=16, grid_width=1)
    engine = hand.Engine(network, vocab, (BINS,) * 4, hand.MixedPrecision(hand.Precision.float32, torch.device("cpu")))
    found = Surprises(engine, layout, asked, dict.fromkeys(NAMES, BINS), 500)
    train, start = sky(4000, 1), vocab.block("scalar").start
    types = torch.tensor([0, *(s.type for s in asked.order)])
    codes = torch.from_numpy(train.scalar["tokens"].astype(np.int64)) + start
    whole = codes[torch.from_numpy(train.scalar["present"].all(1))]
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(150):
        rows = torch.randint(len(whole), (128,))
        tokens = torch.cat([torch.full((128, 1), hand.BOS), whole[rows]], 1)
        hidden = network.hidden(tokens[:, :-1], types[:-1].expand(128, -1), next_types=types[1:].expand(128, -1))
        logits = hidden @ network.head_weight[start : start + BINS].T
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), (whole[rows] - start).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    return Familiarity.fit(found, [sky(1000, 2)])


def test_too_little_surprise_is_strange_as_well():
    found = percentiles(np.array([0.0, 1.0, 2.0, 3.0, np.nan]), np.array([-1.0, 1.5, 2.5, 9.0, np.nan]))
    assert found.tolist()[:4] == [100.0, 0.0, 50.0, 100.0] and np.isnan(found[4])


def test_objects_like_those_are_familiar_and_strangers_are_not(knowing):
    """Every column of a stranger looks as ever; only together they are strange."""
    rows = np.arange(600)
    surprise, percentile = knowing.of(sky(600, 3), rows)
    assert np.isnan(percentile[0]) and np.isfinite(percentile[1:]).mean() > 0.98  # nothing is given of the first
    known = percentile[np.isfinite(percentile)]
    assert known.mean() == pytest.approx(50, abs=5) and (known > 99).mean() < 0.03
    assert np.nanmean(surprise) == pytest.approx(0, abs=0.15) and np.nanstd(surprise) == pytest.approx(1, abs=0.25)
    _, strange = knowing.of(sky(600, 4, stranger=True), rows)
    assert (strange[np.isfinite(strange)] > 99).mean() > 0.4
    again = knowing.of(sky(600, 4, stranger=True), rows[100:140])[1]  # whatever stands beside them
    np.testing.assert_allclose(again, strange[100:140], atol=1.0)


# ------------------------------------------------------------------------------ catalogue and judgement


def test_the_catalogue_has_the_figure_and_the_flag(tmp_path):
    asked = predictor(tmp_path, unfamiliar_above=60.0, given=["z"], posterior=False)
    run = TrainingRun(None, "gone")
    with pytest.raises(ArtifactMissingError, match="gone"):
        fit_familiarity(asked, run, 0)
    asked.familiarity = fit_familiarity(asked, TrainingRun([hand.field(150, 1)]), 0)
    tokens = hand.field(60, 5)
    summary = write_predictions(asked, [tokens], tmp_path)
    table, _ = cat.read_catalogue(tmp_path)
    surprise, percentile, flag = (
        table[name].to_numpy(zero_copy_only=False) for name in ("surprise", "surprise_percentile", "r_flag")
    )
    expected = asked.familiarity.of(tokens, np.arange(60))
    np.testing.assert_allclose(surprise, expected[0], rtol=1e-5)
    there = tokens.scalar["present"][:, 1] & ~tokens.scalar["nondetected"][:, 1]
    assert (np.isfinite(surprise) == there).all() and 3 < there.sum() < 57
    assert ((flag & cat.UNFAMILIAR > 0) == (np.nan_to_num(percentile) > 60)).all()
    assert 0 < summary["flags"]["r"]["UNFAMILIAR"] < there.sum()


def test_coverage_is_judged_and_drawn_by_surprise(tmp_path):
    """The observation of the surprising half is moved by ten widths: nothing of it is covered."""
    store = ToyStore(300)
    path = write_catalogue(tmp_path, store)
    table = pq.read_table(path).drop(["z_pit"])
    surprise = np.random.default_rng(0).normal(size=table.num_rows)
    at = table.column_names.index("z")
    moved = table["z"].to_numpy() + np.where(surprise > 0, 10 * SIGMA, 0.0)
    of_z = table.schema.field("z")
    table = table.set_column(at, of_z, pa.array(moved, of_z.type, from_pandas=True))
    pq.write_table(table.append_column("surprise", pa.array(surprise)), path)
    options = JudgeConfig(n_resamples=20, baselines=[], calibrate=False, n_bins=2)
    judge_catalogue(path, tmp_path / "judged", options=options)
    found = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    low, high = found["columns"]["z"]["by_surprise"]["bins"]
    assert low["coverage_68"] > 0.55 and high["coverage_68"] < 0.15
    assert (tmp_path / "judged" / "plots" / "by_surprise.png").is_file()
