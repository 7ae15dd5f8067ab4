"""docs/: Python runs from top to bottom of its page, commands compose, metrics, keys, files and links exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil

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
LINKED = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


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
    linked = set(re.findall(r"\]\(([\w./-]+\.md)\)", (DOCS / "index.md").read_text()))
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"}
    assert there <= linked
