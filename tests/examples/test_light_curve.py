"""A modality from outside goes through every stage; in a process of its own, as its row would stay in the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

REPO = Path(__file__).resolve().parents[2]
CONF = REPO / "examples" / "light_curve" / "conf"
ALL_STAGES = """
import sys, contextlib
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from hydra import compose, initialize_config_dir
from astromodal.config.launching.register import conf_dir, register
from astromodal.config.checks.validate import validate
from astromodal.config.plugins import import_plugins, plugins_of
from astromodal import stages
from astromodal.__main__ import main
from astromodal.vocabulary.modalities import MODALITIES

folder, conf = Path(sys.argv[1]), sys.argv[2]
rng, n = np.random.default_rng(0), 120
period = 10 ** rng.uniform(0.7, 1.5, n)
lengths = np.where(rng.random(n) < 0.2, 0, rng.integers(20, 60, n))
times = [np.sort(rng.uniform(-5, 105, k)) for k in lengths]
bands = [rng.integers(0, 2, k) for k in lengths]
fluxes = [100 + 20 * (1 + b) * np.sin(2 * np.pi * t / p) for t, b, p in zip(times, bands, period)]
errors = [np.where(rng.random(k) < 0.1, np.nan, 1.0) for k in lengths]
def lists(rows):
    return pa.array([r if len(r) else None for r in rows], pa.list_(pa.float64()))
table = {"id": [str(i) for i in range(n)], "mag": rng.normal(18, 1, n), "period": period, "time": lists(times),
         "band": lists(bands), "flux": lists(fluxes), "error": lists(errors)}
(folder / "cubes").mkdir()
pq.write_table(pa.table(table), folder / "cubes" / "datacube_F0.parquet")
overrides = [
    f"hydra.searchpath=[file://{conf}]", "experiment=light_curve", "hardware=cpu", "hardware.n_threads=1",
    "tracking=off", "tokenizer_id=default", "run_id=r1", "training.epochs=2", "training.batch_size=16", "model=tiny",
    "model.d_model=32", "model.n_layers=1", "model.n_heads=2", "model.d_ff=32", "schedule.warmup_steps=2",
    "tokenizer.scalar.n_bins=8", "tokenizer.light_curve.n_codes=16", "loss.ledger_every=2",
    "loss.share_light_curve=0.3",
]
import_plugins(plugins_of(overrides))
register()
with contextlib.chdir(folder):
    for stage, extra in (("train_tokenizers", ()), ("encode", ()), ("train_lm", ()),
                         ("evaluate", ("evaluate.given=[light_curve]", "evaluate.predict=[period]",
                                       "evaluate.any_order=true", "evaluate.judge.baselines=[marginal]"))):
        lm = ("training", "model", "loss", "schedule")
        own = [o for o in overrides if stage == "train_lm" or not o.startswith(lm)]
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            cfg = compose(stage, [*own, f"run_dir=runs/{stage}/light_curve/r1", *extra])
        validate(cfg, stage)
        getattr(stages, stage)(cfg)
    for command in (["compare", "runs", "--out", "report"], ["export", "runs/train_lm/light_curve/r1"]):
        try:
            main(command)
        except SystemExit as stop:
            print(command[0], stop.code, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("light_curves")
    command = [sys.executable, "-c", ALL_STAGES, str(folder), str(CONF)]
    paths = os.pathsep.join([str(REPO), str(REPO / "src")])
    env = {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=env)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result.stderr


def test_it_goes_through_all_stages(done):
    done, _ = done
    store = done / "artifacts/variable_stars/default"
    assert (store / "tokenizers/light_curve_tokenizers/manifest.json").is_file()
    encoded = json.loads((done / "runs/encode/light_curve/r1/encoding.json").read_text())
    assert 0 < encoded["fields"]["F0"]["present"]["light_curve"] < 120
    found = encoded["found"]["light_curve"]
    assert found["null"] + found["kept"] == 120 and found["invalid_pixels"] > 0


def test_its_term_is_trained_and_its_share_is_held(done):
    folder = done[0] / "runs/train_lm/light_curve/r1"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("train/light_curve", 0) > 0 for line in lines)
    shares = [line["grad_share/light_curve"] for line in lines if "grad_share/light_curve" in line]
    weights = [line["grad_share/weight_light_curve"] for line in lines if "grad_share/weight_light_curve" in line]
    assert shares and weights[0] == pytest.approx(0.1) and weights[-1] != weights[0]
    summary = json.loads((folder / "summary.json").read_text())
    assert np.isfinite(summary["model"]["error_light_curve"])
    assert "error_light_curve" in summary["baselines"]["marginal"]


def test_it_is_drawn_and_evaluated(done):
    done, _ = done
    assert (done / "runs/train_tokenizers/light_curve/r1/plots/light_curve_reconstruction.png").is_file()
    assert (done / "runs/train_lm/light_curve/r1/plots/curves.png").is_file()
    assert (done / "runs/evaluate/light_curve/r1/catalogue.parquet").is_file()


def test_it_is_in_the_report_and_a_bundle_which_holds_no_code_is_refused(done):
    done, said = done
    (row,) = (
        r for r in pyarrow.parquet.read_table(done / "report/runs.parquet").to_pylist() if r["stage"] == "train_lm"
    )
    assert row["best/val/error_light_curve"] > 0 and "light_curve" in (done / "report/report.html").read_text()
    assert re.search(r"a bundle holds no code, got light_curve", said) and not (done / "bundles").exists()


def test_the_example_is_short():
    files = [p for p in CONF.parent.rglob("*") if p.suffix in (".py", ".yaml")]
    assert sum(len(path.read_text().splitlines()) for path in files) < 250


def test_the_page_about_modalities_retells_it_word_for_word():
    section = (REPO / "docs/how-to/modality.md").read_text()
    code = "\n".join(path.read_text() for path in sorted(CONF.parent.rglob("*")) if path.suffix in (".py", ".yaml"))
    excerpts = [b for b in section.split("```\n")[1::2] if not b.startswith("python ")]
    assert len(excerpts) == 4 and all(excerpt.rstrip() in code for excerpt in excerpts)
