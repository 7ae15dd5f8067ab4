"""A run directory is judged with what its own configuration leads to; the command's words, files and mistakes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from astromodal import stages
from astromodal.__main__ import main
from astromodal.config.schema import Baseline, DataConfig, ScalarConfig
from astromodal.judge.judge_run import judge_run, usual_magnitude
from tests.ask.toy_sky import ToyStore, write_catalogue
from tests.tiny_survey import N_PIXELS, configuration, undrawn, write_survey

MARGINAL = {"baselines": [Baseline.marginal]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A survey with scalar tokens, and a run with a catalogue of teff and of one arm that is everywhere 1."""
    folder = tmp_path_factory.mktemp("survey")
    with undrawn(folder):
        write_survey(folder, n=120)
        alone = ("tokenizer.spectrum=null", "tokenizer.image=null")
        stages.train_tokenizers(configuration("train_tokenizers", folder, *alone))
        stages.encode(configuration("encode", folder, *alone))
        config = configuration("evaluate", folder)
    home = folder / "runs" / "evaluate" / "one"
    home.mkdir(parents=True)
    OmegaConf.save(config, home / "config.yaml", resolve=True)
    raw = pa.concat_tables([pq.read_table(path) for path in sorted((folder / "cubes").glob("*.parquet"))])
    teff = raw["teff"].to_numpy()
    table = pa.table(
        {
            "id": raw["id"],
            "field": np.repeat(["F0", "F1"], 120),
            "split": ["val", "test"] * 120,
            "teff": teff,
            "teff_mean": teff + 300.0,
            "teff_q16": teff + 100.0,
            "teff_q84": teff + 500.0,
            "desi_b_mean": pa.array([[1.0] * N_PIXELS] * 240, pa.list_(pa.float32(), N_PIXELS)),
        }
    )
    pq.write_table(table, home / "catalogue.parquet")
    return folder, home


def test_a_run_finds_its_token_files_cubes_and_magnitude(run, monkeypatch):
    folder, home = run
    monkeypatch.chdir(folder)
    result = judge_run(home, changes=MARGINAL)
    record = result["columns"]["teff"]
    assert record["figures"]["mae"]["value"] == pytest.approx(300.0)
    assert record["by_magnitude"]["of"] == "mag_r"
    assert record["against"]["n"] == 120 and "mag_r" in record["against"]["inputs"]
    assert "teff" not in record["against"]["inputs"]
    assert result["figures"]["desi_b/chi2"]["mean"]["value"] > 1
    assert (home / "judgement" / "plots" / "spectra_chi2.png").is_file()
    assert json.loads((home / "judgement" / "evaluation.json").read_text())["n_judged"] == 120


def test_without_token_files_there_are_no_baselines(run, monkeypatch, tmp_path):
    folder, home = run
    monkeypatch.chdir(folder)
    config = OmegaConf.load(home / "config.yaml")
    config.paths.store = str(tmp_path / "none")
    OmegaConf.save(config, tmp_path / "config.yaml")
    (tmp_path / "catalogue.parquet").write_bytes((home / "catalogue.parquet").read_bytes())
    result = judge_run(tmp_path, changes=MARGINAL)
    assert "token files" in result["columns"]["teff"]["against"]["skipped"] and "desi_b/chi2" in result["figures"]


def test_the_command_prints_the_report_of_each_run_and_their_matrix(tmp_path, capsys):
    store = ToyStore(300)
    for name, blur in (("a", 0.0), ("b", 0.05)):
        write_catalogue(tmp_path / name, store, blur=blur)
    main(
        [
            "judge",
            str(tmp_path / "a"),
            str(tmp_path / "b"),
            "--out",
            str(tmp_path / "m"),
            "--resamples",
            "20",
            "--figure",
            "r2",
            "--baselines",
            "marginal",
        ]
    )
    printed = capsys.readouterr().out
    assert printed.count("objects of 600 judged") == 2 and "r2 of each quantity" in printed
    assert (tmp_path / "m" / "any_to_any_r2.png").is_file() and (
        tmp_path / "a" / "judgement" / "evaluation.txt"
    ).is_file()
    main(
        [
            "judge",
            str(tmp_path / "a" / "catalogue.parquet"),
            "--out",
            str(tmp_path / "x"),
            "--baselines",
            "none",
            "--resamples",
            "9",
        ]
    )
    assert (tmp_path / "x" / "evaluation.json").is_file()


def test_a_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as found:
        main(["judge", str(tmp_path)])
    assert found.value.code == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_usual_magnitude():
    def data(**units):
        return DataConfig(scalars={name: ScalarConfig(unit=unit) for name, unit in units.items()})

    assert usual_magnitude(data(mag_g="mag", mag_r="mag", teff="K")) == "mag_r"
    assert usual_magnitude(data(i="mag")) == "i" and usual_magnitude(data(teff_r="K")) is None
