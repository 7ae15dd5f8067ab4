"""docs/guide.md: its Python runs from top to bottom, its files and commands compose, its metrics exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
from hydra import compose, initialize_config_dir

from astromodal import stages
from astromodal.__main__ import main
from astromodal.config.checks.validate import validate
from astromodal.config.launching.register import conf_dir, register
from tests.conftest import REPO
from tests.pipeline.conftest import launch_stage
from tests.tiny_survey import RUN_ID, configuration, undrawn, write_survey

GUIDE = (REPO / "docs/guide.md").read_text().replace("<run_id>", RUN_ID)
BLOCKS = [(kind, body) for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)]
PYTHON = [body.replace("codebook_kmeans_2048", "codebook_kmeans_24") for kind, body in BLOCKS if kind == "python"]
LINES = [line for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]
BESIDE = [line for line in LINES if line.startswith("astromodal ")]  # commands that are no stage
COMMANDS = [line for line in LINES if line not in BESIDE]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder in which the three stages have run, with the files that the guide asks for."""
    folder = tmp_path_factory.mktemp("guide")
    write_survey(folder)
    for kind, body in BLOCKS:
        if kind == "yaml":
            path = folder / re.match(r"# (\S+\.yaml)\n", body)[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body.split("\n", 1)[1])
    (folder / "my_conf/experiment").mkdir()
    shutil.copy(folder / "conf/experiment/mine.yaml", folder / "my_conf/experiment")
    shutil.copy(REPO / "conf/data/kids_viking.yaml", folder / "conf/data/mine.yaml")
    with undrawn(folder):
        for stage in ("train_tokenizers", "encode", "train_lm"):
            getattr(stages, stage)(configuration(stage, folder, "hardware.n_processes=1"))
    return folder


def test_every_python_block_runs_in_order(pipeline, monkeypatch, capsys):
    monkeypatch.chdir(pipeline)
    namespace: dict = {"__name__": "guide"}
    assert len(PYTHON) >= 12
    for number, block in enumerate(PYTHON, 1):
        try:
            exec(compile(block, f"guide.md, Python block {number}", "exec"), namespace)
        except Exception as error:
            raise AssertionError(f"Python block {number} of docs/guide.md fails: {error!r}\n{block}") from error
    printed = capsys.readouterr().out
    assert "Validation loss" in printed and "specz_z" in printed
    assert namespace["trainer"].loop.epoch == 3 and namespace["config"].loss.weight_image == 0.2
    assert ((namespace["redshift"] > -0.1) & (namespace["redshift"] < 8)).all() and len(namespace["redshift"])
    assert namespace["cutouts"].flux.shape[1:] == (2, 32, 32)


def test_the_model_of_the_guide_scores_as_in_the_run(pipeline, monkeypatch):
    monkeypatch.chdir(pipeline)
    namespace: dict = {}
    imports = "import torch\nfrom astromodal.models import CausalTransformerLM\n"
    for block in (*PYTHON[:3], imports, next(b for b in PYTHON if "run = Path" in b)):
        exec(block, namespace)
    exec(
        "from astromodal.training import Trainer\n"
        "stats = Trainer(model, vocab, train_loader, config.training, image_codebook, spectrum_codebooks,"
        " scalar_codebook, device='cpu', next_types=True).evaluate(val_loader)",
        namespace,
    )
    summary = json.loads((pipeline / f"runs/train_lm/default/{RUN_ID}/summary.json").read_text())
    assert namespace["stats"]["score"] == pytest.approx(summary["model"]["score"], rel=1e-4)


def _compose(pipeline, command: str):
    """Configuration, stage and overrides of a command line of the guide."""
    register()
    program, script, *overrides = shlex.split(command)
    assert program == "python" and (REPO / script).is_file()
    folder, stage = pipeline / "conf", script.removesuffix(".py")
    if overrides[0] == "--config-dir":
        folder, overrides = pipeline / overrides[1], overrides[2:]
    fixed = [f"hydra.searchpath=[file://{folder}]", "run_id=x", "run_dir=runs/x", "tokenizer_id=default"]
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return compose(stage, [*fixed, *overrides]), stage, overrides


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--config-name" not in c])
def test_every_command_composes_and_passes_the_checks(pipeline, command):
    cfg, stage, overrides = _compose(pipeline, command)
    validate(cfg, stage, overrides)
    if "experiment=mine" in overrides:
        assert cfg.name == "mine" and cfg.loss.weight_image == 0.2 and cfg.optimizer.name.value == "muon"
    if "--config-dir" not in command and not (REPO / "conf/local/default.yaml").exists():
        assert cfg.paths.runs == "runs_local" and cfg.hardware.n_processes == 2


def test_the_commands_beside_the_stages_run(pipeline, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(pipeline)
    for command in BESIDE:
        _, *arguments = shlex.split(command)
        places = {"/data/survey": "cubes", "conf/data/mine.yaml": str(tmp_path / "mine.yaml")}
        main([places.get(argument, argument) for argument in arguments])
    assert "2 fields (F0, F1), 200 rows" in capsys.readouterr().out and (tmp_path / "mine.yaml").is_file()


def test_the_script_takes_a_folder_and_a_primary_file_of_the_user(pipeline):
    (command,) = [c for c in COMMANDS if "--config-name" in c]
    result = launch_stage("train_lm", *shlex.split(command)[2:], "--cfg", "job", cwd=pipeline)
    assert result.returncode == 0, result.stderr
    assert all(text in result.stdout for text in ("name: my_study", "weight_scalar: 0.5", "d_model: 128"))


def test_every_metric_of_the_table_is_recorded(pipeline):
    lines = (pipeline / f"runs/train_lm/default/{RUN_ID}/metrics.jsonl").read_text().splitlines()
    recorded = set().union(*map(json.loads, lines))
    named = set(re.findall(r"`((?:val|train|optim|perf|grad_share)/\w+)`", GUIDE))
    asked_for = {"val/question"}  # with objective=prediction alone
    assert len(named) > 20 and named - asked_for <= recorded, named - recorded


def test_files_and_keys_that_the_guide_names_exist(pipeline):
    run = pipeline / f"runs/train_lm/default/{RUN_ID}"
    for name in ("config.json", "vocab_spec.json", "best_model.pt", "final_model.pt", "checkpoints", "summary.json"):
        assert (run / name).exists(), name
    tokenizers = pipeline / "artifacts/synthetic/default/tokenizers"
    for name in ("scalar_tokenizers", "spectrum_tokenizers", "codecs"):
        assert (tokenizers / name / "report.json").is_file()
    for path in re.findall(r"`(conf/data/\w+\.yaml)`", GUIDE):
        assert path == "conf/data/mine.yaml" or (REPO / path).is_file()
    titles = re.findall(r"^## (.+)$", GUIDE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([\w-]+)\)", GUIDE)) == anchors
