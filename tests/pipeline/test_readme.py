"""What the README says is run: every command in its bash blocks, in order, with sizes made small by a local file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from itertools import takewhile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from .conftest import launch_stage

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text()
STAGES = ("train_tokenizers", "encode", "train_lm", "evaluate")

# conf/local/default.yaml as a user would write it: only sizes, for the stages that have them
LOCAL = """# @package _global_
data:
  batch_rows: 256
hardware: {n_threads: 1}
tracking: {wandb: disabled}
tokenizer:
  scalar: {n_bins: 16}
  spectrum: {quantizer: {n_codes: 16, max_iter: 3}}
  image: {codec: {width: 8, n_blocks: 1, training: {max_steps: 4}}, quantizer: {n_codes: 16}}
model: {d_model: 32, n_layers: 1, n_heads: 2, d_ff: 64}
training: {max_steps: 2, batch_size: 4}
"""
SYNTHETIC = "  synthetic: {n_fields: 2, n_objects_per_field: 60, image_fraction: 0.4, spectrum_fraction: 0.3}\n"


def bash_lines() -> list[str]:
    """Lines of the README's bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for raw in block.splitlines() if (line := raw.split("  #")[0].strip())]


def commands() -> list[tuple[str, list[str]]]:
    found = [shlex.split(line) for line in bash_lines() if line.startswith("python ")]
    return [(words[1].removesuffix(".py"), words[2:]) for words in found if words[1].removesuffix(".py") in STAGES]


def test_the_readme_has_commands_for_every_stage():
    stages = [stage for stage, _ in commands()]
    assert all(stages.count(stage) >= 2 for stage in STAGES[:3]) and "evaluate" in stages
    assert any("-m" in arguments for _, arguments in commands())


def test_every_line_of_the_bash_blocks_is_tested():
    known = (
        "python train_tokenizers.py",
        "python encode.py",
        "python train_lm.py",
        "python evaluate.py",
        "make demo",
        "make test",
        "pip install",
        "source ",
        "git clone",
        "cd ",
        "python benchmarks/",
        "wandb sync",
    )
    assert [line for line in bash_lines() if not line.startswith(known)] == []


@pytest.fixture(scope="module")
def cubes(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each real cube of S-PLUS at most 150 objects, from all over it."""
    folder = tmp_path_factory.mktemp("cubes")
    for path in (realdata / "splus").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.take(list(range(0, len(table), -(-len(table) // 150)))), folder / path.name)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("index", range(len(commands())), ids=lambda i: " ".join([commands()[i][0], *commands()[i][1]]))
def test_a_command_of_the_readme_runs(place: Path, request: pytest.FixtureRequest, index: int):
    stage, arguments = commands()[index]
    local = LOCAL
    if any("/data/cubes" in argument for argument in arguments):
        root = request.getfixturevalue("cubes")
        arguments = [a.replace("/data/cubes", str(root)) for a in arguments]
    elif not any(a.startswith("data=") for a in arguments):
        local = LOCAL.replace("data:\n", f"data:\n{SYNTHETIC}")
    if any(a.startswith("experiment=") for a in arguments):  # which says for how long
        arguments = [*arguments, "training.max_steps=2", "schedule.warmup_steps=0"]
    folder = place / "conf" / "local"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "default.yaml").write_text(local)
    outcome = launch_stage(stage, *arguments, "--config-dir", str(place / "conf"), cwd=place)
    assert outcome.returncode == 0, outcome.stderr
    if "preview=true" in arguments:
        assert "nothing was started" in outcome.stdout
    elif "--cfg" in arguments:
        assert f"stage: {stage}" in outcome.stdout
    else:
        assert "done in" in outcome.stderr and "next: " in outcome.stderr


def test_the_next_command_that_the_demo_says_is_a_preset():
    assert (REPO / "conf" / "hparams" / "loss_weights.yaml").is_file()


# ---------------------------------------------------------------------------------------- make


@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "setup", "docs", "help"])
def test_make_targets_exist(target: str):
    result = subprocess.run(["make", "-n", target], cwd=REPO, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_make_demo_runs_a_module_that_exists():
    result = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "demo"], cwd=REPO, capture_output=True, text=True, check=True
    )
    for line in result.stdout.splitlines():
        if module := re.search(r"python -m (\S+)", line):
            name = module[1].replace(".", os.sep)
            if name.split(os.sep)[0] not in ("venv", "pip", "pytest"):
                places = [REPO / f"{name}.py", REPO / "src" / f"{name}.py", REPO / "src" / name / "__main__.py"]
                assert any(path.is_file() for path in places), line


def test_every_number_in_the_readme_is_filled_in():
    assert "@" not in re.sub(r"# @package\S* ?\S*|\S+@\S+\.\S+", "", README), "a placeholder was left in the README"


# ------------------------------------------------------------------------------ tables and links


def configuration_table() -> list[tuple[list[str], list[str]]]:
    """Groups and options of each row; a row with several groups separates their options by semicolons."""
    table = README.split("| group | options | decides |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", a), [re.findall(r"`([^`]+)`", part) for part in b.split(";")]) for a, b in rows]


def test_every_option_of_the_table_exists_and_every_group_stands_in_it():
    named = set()
    for groups, options in configuration_table():
        if len(options) == 1:
            options = options * len(groups)
        elif len(options) < len(groups):  # the last part belongs to the remaining groups
            options = options + [options[-1]] * (len(groups) - len(options))
        for group, names in zip(groups, options, strict=True):
            there = {p.stem for p in (REPO / "conf" / group).glob("*.yaml")}
            assert set(names) <= there, f"{group}: {set(names) - there} do not exist"
            assert group == "experiment" or set(names) == there, f"{group}: {there - set(names)} are not in the README"
            named.add(group)
    groups = {p.name for p in (REPO / "conf").iterdir() if p.is_dir()} - {"hydra", "local", "paths", "vocab"}
    assert groups - named == set()


def test_links_to_files_of_the_repository_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert [link for link in links if not (REPO / link).exists()] == []


def test_the_file_tree_names_what_is_there():
    tree = README.split("## Where things are")[1].split("```")[1]
    base = REPO
    for line in filter(str.strip, tree.splitlines()):
        names = list(takewhile(lambda word: word.endswith(("/", ".py")), line.split()))
        assert names, line
        base = REPO if not line.startswith(" ") else base
        for name in names:
            assert (base / name).exists(), name
        if names == ["src/astromodal/"]:
            base = REPO / "src" / "astromodal"


def test_documented_keys_exist():
    from astromodal.config.reading.explain import all_keys

    keys = set(all_keys())
    for key in re.findall(r"[\s`]((?:loss|model|training|hardware|tokenizer|optimizer|data)\.[\w.]+)=", README):
        assert key in keys or key == "loss.weight_imag", key  # the typo that the README shows
