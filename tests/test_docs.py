"""docs/: Python runs from top to bottom of its page, commands compose, metrics, keys, files and links exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from astromodal import stages
from astromodal.__main__ import COMMANDS as PROGRAM
from astromodal.__main__ import STAGES, main
from astromodal.config.checks.validate import validate
from astromodal.config.launching.register import conf_dir, register
from tests.conftest import REPO
from tests.pipeline.conftest import launch_stage
from tests.tiny_survey import RUN_ID, configuration, undrawn, write_survey

DOCS = REPO / "docs"
KINDS = ("tutorial", "how-to", "reference", "explanation")
PAGES = {
    str(path.relative_to(DOCS)): path.read_text().replace("<run_id>", RUN_ID)
    for kind in KINDS
    for path in sorted((DOCS / kind).rglob("*.md"))
}
NOTEBOOKS = {path.stem: path for path in sorted((DOCS / "notebooks").glob("*.ipynb"))}
LINKED = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts),
]


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def python(page: str) -> list[str]:
    return [
        text.replace("codebook_kmeans_2048", "codebook_kmeans_24") for kind, text in blocks(page) if kind == "python"
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
LINES = [line for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]
BESIDE = [line for line in LINES if line.startswith("astromodal ")]  # commands that are no stage
COMMANDS = [line for line in LINES if line not in BESIDE]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder in which the three stages have run, with the files that the pages ask for."""
    folder = tmp_path_factory.mktemp("docs")
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


def run_page(page: str) -> dict:
    """What the names of a page's Python blocks are after they ran, one after the other."""
    namespace: dict = {"__name__": "docs"}
    for number, block in enumerate(python(page), 1):
        try:
            exec(compile(block, f"{page}, Python block {number}", "exec"), namespace)
        except Exception as error:
            raise AssertionError(f"Python block {number} of docs/{page} fails: {error!r}\n{block}") from error
    return namespace


def test_the_tutorial_runs_in_order(pipeline, monkeypatch, capsys):
    monkeypatch.chdir(pipeline)
    assert len(python("tutorial/python.md")) >= 11
    names = run_page("tutorial/python.md")
    printed = capsys.readouterr().out
    assert "Validation loss" in printed and "specz_z" in printed
    assert names["trainer"].loop.epoch == 3
    assert ((names["redshift"] > -0.1) & (names["redshift"] < 8)).all() and len(names["redshift"])
    assert names["cutouts"].flux.shape[1:] == (2, 32, 32)


@pytest.mark.parametrize("page", [page for page in PAGES if python(page) and page != "tutorial/python.md"])
def test_the_python_of_every_other_page_runs_in_order(pipeline, monkeypatch, page):
    monkeypatch.chdir(pipeline)
    names = run_page(page)
    if page == "how-to/settings.md":
        assert names["config"].loss.weight_image == 0.2 and names["config"].training.learning_rate == 1e-4


def test_the_model_of_the_tutorial_scores_as_in_the_run(pipeline, monkeypatch):
    monkeypatch.chdir(pipeline)
    namespace: dict = {}
    imports = "import torch\nfrom astromodal.models import CausalTransformerLM\n"
    tutorial = python("tutorial/python.md")
    for block in (*tutorial[:3], imports, next(b for b in tutorial if "run = Path" in b)):
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
    """Configuration, stage and overrides of a command line of the pages."""
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
    named = set(re.findall(r"`((?:val|train|optim|perf|grad_share)/\w+)`", "".join(PAGES.values())))
    asked_for = {"val/question"}  # with objective=prediction alone
    assert len(named) > 20 and named - asked_for <= recorded, named - recorded


def test_files_that_the_pages_name_exist(pipeline):
    run = pipeline / f"runs/train_lm/default/{RUN_ID}"
    for name in ("config.json", "vocab_spec.json", "best_model.pt", "final_model.pt", "checkpoints", "summary.json"):
        assert (run / name).exists(), name
    tokenizers = pipeline / "artifacts/synthetic/default/tokenizers"
    for name in ("scalar_tokenizers", "spectrum_tokenizers", "codecs"):
        assert (tokenizers / name / "report.json").is_file()
    for path in re.findall(
        r"`((?:conf|src|docs|examples|sweeps|benchmarks)/[\w/]+\.(?:yaml|py|md))`", "".join(PAGES.values())
    ):
        assert path in ("conf/data/mine.yaml", "conf/cubes/mine.yaml") or (REPO / path).is_file(), path


# ---------------------------------------------------------------------------- keys, commands and links


@pytest.mark.parametrize("page", LINKED, ids=lambda path: str(path.relative_to(REPO)))
def test_keys_that_a_page_names_exist(page):
    from astromodal.config.reading.explain import all_keys

    groups = (
        "loss|model|training|hardware|tokenizer|optimizer|schedule|sequence|data|evaluate|tracking|sweep|cubes|recipe"
    )
    named = set(re.findall(rf"[\s`'\[]((?:{groups})\.[\w.]+)=", page.read_text()))
    named -= {"loss.weight_imag", *all_keys()}  # the first is the typo that the README shows
    schema = "".join(path.read_text() for path in (REPO / "src/astromodal/config/schema").glob("*.py"))
    of_options = {
        key for key in named if re.match(r"(data\.(scalars|images|spectra)|tokenizer\.\w+\.codec|recipe)\.", key)
    }
    assert named <= of_options  # the keys of these sections depend on the survey, the codec, the recipe
    assert all(f"    {key.rpartition('.')[2]}: " in schema for key in of_options), of_options


@pytest.mark.parametrize("page", LINKED, ids=lambda path: str(path.relative_to(REPO)))
def test_commands_that_a_page_names_exist(page):

    named = set(re.findall(r"^(?:.*`)?astromodal ([a-z][\w-]*)", page.read_text(), re.MULTILINE))
    assert named <= {*PROGRAM, *STAGES}


def anchors(path) -> set[str]:
    """What GitHub and the site call the titles of a page."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda path: str(path.relative_to(REPO)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http://", "https://", "mailto:")):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_front_page_links_to_every_page():
    linked = set(re.findall(r"\]\(([\w./-]+\.(?:md|ipynb))\)", (DOCS / "index.md").read_text()))
    there = {str(path.relative_to(DOCS)) for path in [*DOCS.rglob("*.md"), *NOTEBOOKS.values()]} - {"index.md"}
    assert {name for name in there if "_build" not in name} <= linked


# -------------------------------------------------------------------------------------- notebooks

# What makes a notebook's commands small: appended to those of each stage, and so stronger.
SMALL = ("model.d_model=32", "model.n_layers=1", "model.n_heads=2", "model.d_ff=64", "training.max_steps=4")
# the tokens of `pipeline`, which lack what experiment=demo asks for
HERE = (
    "data=tiny",
    "data.name=synthetic",
    "data.synthetic=null",
    "sequence.questions=[]",
    "evaluate.predict=null",
    "paths.runs=runs",
)


@pytest.fixture(scope="module")
def demo(pipeline):
    """What `make demo` leaves behind, as the notebooks look for it: a model that was trained as it is asked."""
    with undrawn(pipeline):
        place = ("sequence=ask", "training.epochs=1", f"run_dir=runs/train_lm/demo/{RUN_ID}")
        stages.train_lm(configuration("train_lm", pipeline, *place))
    (pipeline / "artifacts/demo").mkdir(parents=True)
    (pipeline / "artifacts/demo/cubes").symlink_to(pipeline / "cubes")
    return pipeline


def run_notebook(name: str, folder, small: tuple[str, ...] = ()) -> tuple[dict, int]:
    """The cells of a notebook, in this process: what its names are afterwards, and how many pictures it drew."""

    def shell(line: str, names: dict) -> None:
        line = re.sub(r"\{(\w+)\}", lambda match: str(names[match[1]]), line.split("|")[0].replace("2>&1", ""))
        program, *words = shlex.split(line)
        if program == "astromodal":
            main(words)
            return
        stage = words[0].removesuffix(".py")
        own = small if stage == "train_lm" else ()
        found = ("--config-dir", str(folder / "conf")) if "--config-dir" not in words else ()
        outcome = launch_stage(stage, *words[1:], *own, *found, cwd=folder)
        assert outcome.returncode == 0, outcome.stderr

    pictures: list[int] = []
    plt.switch_backend("Agg")
    names: dict = {"__name__": name, "shell": shell}
    with mock.patch.object(plt, "show", lambda: pictures.append(plt.gcf().number)):
        for number, cell in enumerate(json.loads(NOTEBOOKS[name].read_text())["cells"]):
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                lines = [f"shell({line[1:]!r}, globals())" if line.startswith("!") else line for line in lines]
                code = "\n".join(line for line in lines if not line.startswith("%cd"))
                exec(compile(code, f"{name}, cell {number}", "exec"), names)
    plt.close("all")
    return names, len(pictures)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_what_it_made_and_no_error(name):
    cells = [cell for cell in json.loads(NOTEBOOKS[name].read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in cells) and all(o["output_type"] != "error" for o in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert NOTEBOOKS[name].stat().st_size < 400_000


def test_objects_that_are_alike(demo, monkeypatch):
    monkeypatch.chdir(demo)
    names, pictures = run_notebook("alike", demo)
    similarity = names["similarity"]
    assert pictures == 2 and similarity.shape == (len(names["table"]),) * 2
    assert np.allclose(np.diag(similarity), 1) and np.abs(similarity).max() < 1 + 1e-6


def test_desi_files_to_tokens_and_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    names, pictures = run_notebook("desi", tmp_path)
    spectra, decoded = names["spectra"], names["decoded"]
    assert pictures == 1 and spectra.present.all() and names["codes"].max() < 64
    noise = 0.3 / spectra.scale[:, None]
    error = decoded / spectra.scale[:, None] - spectra.flux
    assert np.mean((error / noise) ** 2) < 1.5  # what is left is little more than the noise of the pixels


def test_a_survey_of_ones_own_and_its_redshifts_in_five_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, pictures = run_notebook("survey", tmp_path, (*SMALL[:4], "training.epochs=2"))
    assert pictures == 1 and len(names["answer"]) == len(names["galaxies"])
    assert np.mean(names["error"]) < 0.9 * np.mean(names["of_median"])  # it has learned something
    names, pictures = run_notebook("photo-z", tmp_path)
    median, low, high = (names["answer"][f"redshift_{end}"] for end in ("median", "q16", "q84"))
    assert pictures == 1 and (low <= median).all() and (median <= high).all() and (median > 0).all()


@pytest.mark.slow
def test_which_loss_is_better(pipeline, monkeypatch):
    monkeypatch.chdir(pipeline)
    names, pictures = run_notebook("which-loss", pipeline, (*HERE, *SMALL))
    assert pictures == 1 and sorted(row["config.loss.enabled"] for row in names["rows"]) == ["false"] * 2 + ["true"] * 2
