"""Written embeddings are those of a slow loop, in the order of the files, whatever the windows; attention is kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from astromodal.__main__ import main
from astromodal.ask import catalogue as cat
from astromodal.config.schema import HardwareConfig
from astromodal.data.splits import SPLIT_NAMES
from astromodal.errors import ArtifactError, ArtifactMissingError, DataError, UnsafeFileError
from astromodal.files.npz import load_npz, save_npz
from astromodal.probe import embedding, similarity
from astromodal.probe.embedding import write_embeddings
from astromodal.probe.fits import AttentionProbe, LinearProbe
from astromodal.probe.frozen import Frozen
from astromodal.probe.pooling import AttentionPooling, FittedAttention, attention_shares
from astromodal.probe.states import hidden_plan
from tests.ask import hand_built as hand

WIDTH = 16
SEQUENCE = {"order": "random", "missing": "absent", "next_types": True}


def two_fields():
    second = replace(hand.field(20, seed=4), field="F1", ids=np.array([f"other{i}" for i in range(20)]))
    return [hand.field(23), second]


def frozen(labels=("z",), given=None, batch_size=5) -> Frozen:
    trained = SimpleNamespace(model=hand.model(torch.float32), layout=hand.layout(), fingerprint="f", run_id="run")
    plan = hidden_plan(hand.layout(), SEQUENCE, labels, given)
    engine = hand.engine(batch_size, torch.float32)
    return Frozen(trained, two_fields(), tuple(labels), plan, engine, HardwareConfig(device="cpu"))


def attention(*labels: str, n_queries: int = 3, given=None) -> FittedAttention:
    """Queries that are sharp enough for the tokens to weigh very differently."""
    rng = np.random.default_rng(3)
    return FittedAttention(
        "f",
        given,
        {
            label: AttentionPooling(
                rng.normal(size=WIDTH).astype(np.float32), rng.normal(size=(WIDTH, n_queries)).astype(np.float32)
            )
            for label in labels
        },
    )


def shown_states(one: Frozen, tokens, row: int) -> np.ndarray | None:
    """Hidden states (L, D) of one object's own forward pass; None where nothing is shown."""
    whole = hand.Prefix([hand.BOS], [0])
    for segment in one.plan.order:
        own = hand.part_tokens(tokens, row, segment.name)
        if own is not None and segment.name in one.plan.given:
            whole.tokens += own
            whole.types += [segment.type] * len(own)
    return hand.states(hand.model(), whole, 0).numpy() if len(whole.tokens) > 1 else None


def by_hand(states: np.ndarray, pooling: AttentionPooling) -> list[float]:
    found = []
    for q in range(pooling.directions.shape[1]):
        scores = [float((h - pooling.mean) @ pooling.directions[:, q]) for h in states]
        weights = [np.exp(s - max(scores)) for s in scores]
        found += list(sum(w * h for w, h in zip(weights, states, strict=True)) / sum(weights))
    return found


@pytest.mark.parametrize("given", [None, ["xp", "r"]])
def test_every_row_is_that_of_a_slow_loop_in_the_order_of_the_files(given, tmp_path):
    one, fitted = frozen(("z", "t"), given), attention("z", "t")
    written = write_embeddings(tmp_path / "e.parquet", one, fitted)
    table, meaning = cat.read_catalogue(tmp_path / "e.parquet")
    names = ["embedding_attention_z", "embedding_attention_t"]
    assert table.column_names == ["id", "field", "split", "embedding_mean", *names]
    assert table.schema.field("embedding_mean").type == pa.list_(pa.float32(), WIDTH)
    assert table.schema.field(names[1]).type == pa.list_(pa.float32(), 3 * WIDTH)
    rows = [(field, row) for field in one.tokens for row in range(len(field))]
    assert table["id"].to_pylist() == [str(field.ids[row]) for field, row in rows]
    assert table["field"].to_pylist() == [field.field for field, _ in rows]
    assert table["split"].to_pylist() == [SPLIT_NAMES[field.split[row]] for field, row in rows]
    lacking = 0
    for (field, row), found in zip(rows, table.to_pylist(), strict=True):
        states = shown_states(one, field, row)
        if states is None:
            assert found["embedding_mean"] is None and found[names[0]] is None
            lacking += 1
            continue
        np.testing.assert_allclose(found["embedding_mean"], states.mean(0), rtol=1e-3, atol=1e-4)
        for label, name in zip(("z", "t"), names, strict=True):
            np.testing.assert_allclose(found[name], by_hand(states, fitted.labels[label]), rtol=1e-3, atol=1e-3)
    assert written == {"objects": 43, "without_embedding": lacking} and 2 <= lacking < 30
    assert not {"z", "t"} & set(meaning["given"]) and meaning["hidden"] == ["z", "t"] and meaning["model"] == "f"
    assert meaning["attention"][names[1]] == {"label": "t", "shape": [3, WIDTH], "is_mean": False}


def test_small_windows_and_batches_give_what_one_window_gives(tmp_path, monkeypatch):
    fitted, read = attention("z"), []
    write_embeddings(tmp_path / "whole.parquet", frozen(batch_size=64), fitted)
    original = embedding.Slots.read
    monkeypatch.setattr(embedding, "SLOT_CELLS", 100)
    monkeypatch.setattr(
        embedding.Slots,
        "read",
        lambda field, start, stop, *a: read.append(stop - start) or original(field, start, stop, *a),
    )
    write_embeddings(tmp_path / "windows.parquet", frozen(batch_size=3), fitted)
    assert len(read) > 10 and max(read) <= 5  # rows that memory holds together
    whole, windows = (cat.read_catalogue(tmp_path / f"{name}.parquet")[0] for name in ("whole", "windows"))
    assert whole["id"] == windows["id"]
    for name in ("embedding_mean", "embedding_attention"):
        for a, b in zip(whole[name].to_pylist(), windows[name].to_pylist(), strict=True):
            assert (a is None) == (b is None)
            np.testing.assert_allclose(a or [], b or [], rtol=1e-4, atol=1e-5)


def test_some_objects_are_written_once_each_and_are_those_of_the_whole_file(tmp_path):
    fitted = attention("z")
    write_embeddings(tmp_path / "all.parquet", frozen(), fitted)
    places = np.array([[1, 19], [0, 3], [0, 0], [1, 19]])
    assert write_embeddings(tmp_path / "some.parquet", frozen(), fitted, places)["objects"] == 3
    whole, some = (cat.read_catalogue(tmp_path / f"{name}.parquet")[0] for name in ("all", "some"))
    assert some["id"].to_pylist() == ["obj0", "obj3", "other19"]
    by_id = {row["id"]: row for row in whole.to_pylist()}
    for row in some.to_pylist():
        np.testing.assert_allclose(row["embedding_attention"], by_id[row["id"]]["embedding_attention"], rtol=1e-4)
    write_embeddings(tmp_path / "second.parquet", frozen(), fitted, np.array([[1, 0]]))
    assert cat.read_catalogue(tmp_path / "second.parquet")[0]["field"].to_pylist() == ["F1"]


def test_a_model_that_was_shown_a_label_is_not_asked(tmp_path):
    one = frozen()
    shown = replace(one, plan=replace(one.plan, given=one.plan.given | {"z"}))
    with pytest.raises(DataError, match="z among what is given"):
        write_embeddings(tmp_path / "e.parquet", shown, attention("z"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_similarity_searches_by_either_pooling(kind, tmp_path, capsys):
    fitted = attention("z")
    write_embeddings(tmp_path / "embeddings.parquet", frozen(), fitted)
    table, _ = cat.read_catalogue(tmp_path / "embeddings.parquet")
    there = [(row["id"], np.array(row[f"embedding_{kind}"])) for row in table.to_pylist() if row["embedding_mean"]]
    query = dict(there)["obj3"]
    cosines = {name: float(query @ e / np.linalg.norm(query) / np.linalg.norm(e)) for name, e in there}
    expected = sorted((name for name in cosines if name != "obj3"), key=lambda name: -cosines[name])[:4]
    main(["similar", str(tmp_path), "--ids", "obj3", "--k", "4", "--embedding", kind])
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "obj3" and [line.split()[0] for line in lines[1:5]] == expected
    assert float(lines[1].split()[1]) == pytest.approx(cosines[expected[0]], abs=1e-4)


def test_the_poolings_are_not_the_same_search(tmp_path):
    write_embeddings(tmp_path / "embeddings.parquet", frozen(), attention("z"))
    found = [similarity.nearest_in_file(tmp_path, ["obj3"], 9, how).ids[0].tolist() for how in ("mean", "attention")]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("how", "repair"),
    [
        ("attention", "probe RUN --label"),
        ("last", r"embeddings=\[last\]"),
        ("nothing", "name another"),
    ],
)
def test_a_pooling_that_is_not_there_is_said_with_those_that_are(how, repair, tmp_path):
    write_embeddings(tmp_path / "embeddings.parquet", frozen(("z", "t")), attention("z", "t"))
    with pytest.raises(ArtifactError, match=f"embedding_mean, embedding_attention_z.*{repair}"):
        similarity.nearest_in_file(tmp_path, ["obj3"], how=how)
    assert similarity.nearest_in_file(tmp_path, ["obj3"], 2, "attention_t").ids.shape == (1, 2)


# --------------------------------------------------------------------------------------------- attention


def probe(noise: float = 1.0) -> AttentionProbe:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(WIDTH, WIDTH))
    linear = LinearProbe(rng.normal(size=WIDTH), 0.7, 1.0, 1.0)
    return AttentionProbe(linear, rng.normal(size=WIDTH), root @ root.T, 3, seed=1, noise=noise)


def states(n: int = 9, places: int = 7):
    torch.manual_seed(0)
    return torch.randn(n, places, WIDTH), torch.arange(n) % places + 1


def test_what_a_probe_predicts_is_linear_in_what_it_pools():
    one, (hidden, lengths) = probe(), states()
    one.queries.data *= 5
    padded = hidden.clone()
    padded[torch.arange(hidden.shape[1]) >= lengths[:, None]] = 1e3
    pooled = one.pooling()(padded, lengths).reshape(9, 3, WIDTH)
    weights = (one.whitening @ one.weights.T).T
    with torch.no_grad():
        predicted = ((pooled - one.mean) * weights).sum((1, 2)) + one.bias
        np.testing.assert_allclose(predicted, one(padded, lengths), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(pooled[:, 0], pooled[:, 1], atol=0.1) and not one.pooling().is_mean


def test_queries_of_zero_pool_the_mean():
    hidden, lengths = states()
    pooling = probe(noise=0.0).pooling()
    mean = torch.stack([h[:n].mean(0) for h, n in zip(hidden, lengths, strict=True)])
    np.testing.assert_allclose(pooling(hidden, lengths), mean.repeat(1, 3), rtol=1e-4, atol=1e-5)
    assert pooling.is_mean and pooling.n_queries == 3


def test_shares_are_of_the_real_tokens_and_sum_to_one():
    shares = attention_shares(torch.randn(4, 6, 2), torch.tensor([1, 3, 6, 2]))
    np.testing.assert_allclose(shares.sum(1), 1.0, rtol=1e-6)
    assert (shares > 0).sum(1).tolist() == [[1, 1], [3, 3], [6, 6], [2, 2]]


def test_fitted_attention_survives_its_file_and_belongs_to_one_model(tmp_path):
    path, fitted = tmp_path / "a.npz", attention("z", "t", given=("xp", "r"))
    fitted.save(path)
    again = FittedAttention.load(path, "f")
    assert list(again.labels) == ["z", "t"] and again.given == ("xp", "r") and again.columns() == fitted.columns()
    for label, pooling in fitted.labels.items():
        np.testing.assert_array_equal(again.labels[label].directions, pooling.directions)
        np.testing.assert_array_equal(again.labels[label].mean, pooling.mean)
    with pytest.raises(ArtifactError, match="fitted on the model g, got one of f"):
        FittedAttention.load(path, "g")
    attention("z").save(path)
    assert FittedAttention.load(path).given is None


def test_files_that_are_no_fitted_attention_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(ArtifactMissingError):
        FittedAttention.load(path)
    attention("z").save(path)
    arrays = load_npz(path)
    two_labels = '{"format": 1, "model": "f", "labels": ["z", "t"], "given": null}'
    meanings = [{"meaning": np.array(text)} for text in ("no json", "[]", '{"format": 9}', two_labels)]
    for wrong in (*meanings, {"mean_0": np.zeros(WIDTH + 1)}):
        save_npz(path, arrays | wrong)
        with pytest.raises(ArtifactError, match="fit it again"):
            FittedAttention.load(path)
    np.savez(path, **arrays | {"mean_0": np.array([{}], dtype=object)})
    with pytest.raises(UnsafeFileError):
        FittedAttention.load(path)
    path.write_bytes(b"no zip")
    with pytest.raises(ArtifactError):
        FittedAttention.load(path)
