"""The command of probes: its files, sentence and pictures, and embeddings with attention that was fitted before."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from astromodal.__main__ import main
from astromodal.ask import catalogue as cat
from astromodal.files.io import read_json
from astromodal.probe import frozen
from astromodal.probe import plots as probe_plots
from astromodal.probe import report as probes
from tests.ask import hand_built as hand

SEQUENCE = {"order": "random", "missing": "absent", "next_types": True}


class Store(list):
    def check_tokenizers(self, tokenizers) -> None:
        assert tokenizers.scalar is not None


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of weights; loading it gives the model built by hand, its tokens are one field."""
    path = tmp_path / "w.pt"
    path.write_bytes(b"weights")
    trained = SimpleNamespace(
        model=hand.model(torch.float32),
        layout=hand.layout(),
        tokenizers=hand.tokenizers(),
        sequence=SEQUENCE,
        fingerprint=probes.fingerprint_file(path),
        run_id="run",
    )
    monkeypatch.setattr(frozen, "load_trained", lambda *_: trained)
    monkeypatch.setattr(frozen, "TokenStore", lambda _: Store([hand.field(120)]))
    return path


COMMAND = ["--given", "r,spectrum", "--epochs", "1", "--device", "cpu", "--max-train", "30"]


def is_png(path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_the_command_writes_figures_table_pictures_attention_and_embeddings(weights, tmp_path, capsys):
    main(["probe", str(weights), *COMMAND, "--label", "t,z"])
    folder = tmp_path / "probes"
    t, z = read_json(folder / "probes.json")["labels"]
    assert {"r", "sp", "xp", "xp_scale"} <= set(t["given"]) and not {"t", "z"} & set(t["given"])
    assert t["label"] == "t" and z["label"] == "z" and t["drawn"]["train"]["used"] <= 30
    text = (folder / "probes.txt").read_text()
    assert text in capsys.readouterr().out and text.startswith("t [K] from")
    assert all(word in text for word in ("z from", "marginal", "linear", "attention", "r2"))
    assert probes.comparison(t) in text and probes.comparison(z) in text
    assert is_png(folder / "plots/predicted.png") and is_png(folder / "plots/r2.png")
    table, meaning = cat.read_catalogue(folder / "embeddings.parquet")
    used = sum(n["used"] for n in t["drawn"].values())
    assert used <= table.num_rows <= used + sum(n["used"] for n in z["drawn"].values())
    assert table.column_names[3:] == ["embedding_mean", "embedding_attention_t", "embedding_attention_z"]
    assert meaning["fitted"] == probes.fingerprint_file(folder / "attention.npz") and meaning["hidden"] == ["t", "z"]
    assert not table["embedding_attention_t"].null_count


def test_what_was_fitted_embeds_without_fitting_again(weights, tmp_path, monkeypatch, capsys):
    main(["probe", str(weights), *COMMAND, "--label", "z", "--embed-all", "--out", str(tmp_path / "first")])
    first, before = cat.read_catalogue(tmp_path / "first" / "embeddings.parquet")
    assert first.num_rows == 120 and first["id"].to_pylist() == hand.field(120).ids.tolist()
    monkeypatch.setattr(probes, "probe_label", None)  # would be called to fit
    again = [str(weights), "--device", "cpu", "--fitted", str(tmp_path / "first" / "attention.npz")]
    main(["probe", *again, "--out", str(tmp_path / "second")])
    second, after = cat.read_catalogue(tmp_path / "second" / "embeddings.parquet")
    assert second.equals(first) and after == before
    assert sorted(p.name for p in (tmp_path / "second").iterdir()) == ["embeddings.parquet"]
    assert "embeddings of 120 objects, " in capsys.readouterr().out  # some have nothing of what is given
    weights.write_bytes(b"other weights")
    with pytest.raises(SystemExit):
        main(["probe", *again, "--out", str(tmp_path / "third")])
    assert "attention fitted on the model" in capsys.readouterr().err and not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--label", "nothing"], "one of r, z, t"),
        (["--label", "t", "--queries", "0"], "1 or more"),
        (["--label", "t,t"], "every label once"),
        (["--label", "r"], "r in both"),
        (["--fitted", "a.npz"], "--fitted without --given"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(wrong, said, weights, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["probe", str(weights), *COMMAND, *wrong])
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1] and lines[-1].startswith("error: ") and not (tmp_path / "probes").exists()


def result(difference: float, low: float, high: float, is_mean: bool = False) -> dict:
    return {
        "unit": "K",
        "attention": {"is_mean": is_mean},
        "probes": {"linear": {"mae": {"value": 200.0}}},
        "attention_minus_linear": {"mae": difference, "low": low, "high": high},
    }


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            result(-50, -60, -40),
            "Attention pooling predicts better than mean pooling by the mean absolute error "
            "(attention minus mean: -50 K (-25 %), 95 % interval -60 to -40).",
        ),
        (
            result(10, 2, 18),
            "Attention pooling predicts worse than mean pooling by the mean absolute error "
            "(attention minus mean: +10 K (+5 %), 95 % interval +2 to +18).",
        ),
        (
            result(10, -2, 18),
            "Attention and mean pooling cannot be told apart by the mean absolute error "
            "(attention minus mean: +10 K (+5 %), 95 % interval -2 to +18).",
        ),
        (
            result(0, 0, 0, True),
            "Attention found nothing better than the mean on validation objects and stayed the mean.",
        ),
    ],
)
def test_one_sentence_says_what_attention_adds(entry, said):
    assert probes.comparison(entry) == said


# ---------------------------------------------------------------------------------------------- pictures


def panel(observed: np.ndarray, **changes) -> dict:
    predicted = {"linear": 0.9 * observed, "attention": observed}
    return {
        "label": "z",
        "unit": "",
        "observed": observed,
        "predicted": predicted,
        "r2": {"linear": 0.5, "attention": 0.7},
    } | changes


def drawn(monkeypatch) -> list:
    figures = []
    monkeypatch.setattr(probe_plots, "save", lambda figure, path: figures.append(figure) or path)
    return figures


def test_panels_have_the_points_the_identity_and_equal_axes(tmp_path, monkeypatch):
    figures, rng = drawn(monkeypatch), np.random.default_rng(0)
    wide = 10 ** rng.uniform(0, 3, 50)
    probe_plots.plot_probe_predictions([panel(rng.normal(size=50)), panel(wide, label="flux")], tmp_path / "a.png")
    axes = figures[0].axes
    assert len(axes) == 4
    for axis, scale in zip(axes, ["linear"] * 2 + ["log"] * 2, strict=True):
        points, identity = axis.lines
        assert axis.get_xlim() == axis.get_ylim() and axis.get_xscale() == axis.get_yscale() == scale
        np.testing.assert_array_equal(*identity.get_data())
        assert len(points.get_xdata()) == 50
    np.testing.assert_array_equal(axes[3].lines[0].get_ydata(), wide)
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), 0.9 * wide)
    assert "linear (mean): R² 0.500" in axes[0].get_title() and "attention: R² 0.700" in axes[1].get_title()


def test_every_probe_and_the_marginal_has_its_interval(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    r2 = {"linear": (0.1, 0.4, 0.6), "attention": (0.3, 0.5, 0.7), "marginal": (-0.1, -0.01, 0.0)}
    found = {name: {"r2": {"low": low, "value": value, "high": high}} for name, (low, value, high) in r2.items()}
    probe_plots.plot_probe_r2([{"label": "z", "probes": found}, {"label": "t", "probes": found}], tmp_path / "a.png")
    lines = [line.get_xdata() for line in figures[0].axes[0].lines[:-1]]
    intervals, values = [tuple(x) for x in lines if len(x) == 2], [x[0] for x in lines if len(x) == 1]
    assert sorted(intervals) == sorted(2 * [(low, high) for low, _, high in r2.values()])
    assert sorted(values) == sorted(2 * [value for _, value, _ in r2.values()])
    assert [label.get_text() for label in figures[0].axes[0].get_yticklabels()] == ["z", "t"]


def test_nothing_to_draw_writes_nothing(tmp_path):
    assert probe_plots.plot_probe_predictions([panel(np.zeros(0))], tmp_path / "a.png") is None
    assert probe_plots.plot_probe_r2([], tmp_path / "b.png") is None and not list(tmp_path.iterdir())
