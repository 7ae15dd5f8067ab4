"""The structure that the design fixes: the direction of imports, thin scripts, light imports, one module set."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ORDER = (
    *("errors", "lazy", "machine", "vocabulary", "config", "files", "provenance", "metrics", "plots", "optim"),
    *("parallel", "data", "cubes", "runs", "quantizers", "models", "codecs", "loss", "training", "recipes"),
    *(
        "tokenizers",
        "tokens",
        "sequences",
        "ask",
        "language_model",
        "judge",
        "probe",
        "stages",
        "compare",
        "dashboards",
    ),
    *("bundles", "sweeps", "commands", "core", "__main__"),
)
SOURCE = Path(__file__).resolve().parents[1] / "src" / "astromodal"
FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


def imported_parts(path: Path) -> set[str]:
    """Parts of astromodal that a file imports."""
    package = list(path.relative_to(SOURCE).parts[:-1])
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = base + (node.module.split(".") if node.module else [])
            parts |= {target[0]} if target else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("astromodal."):
            parts.add(node.module.split(".")[1])
    return parts


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_part_imports_only_from_parts_before_its_own(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    later = {p for p in imported_parts(path) if p in ORDER and ORDER.index(p) > ORDER.index(own)}
    assert not later, f"{own} imports {later}"


@pytest.mark.parametrize("stage", ["build_datacubes", "train_tokenizers", "encode", "train_lm", "evaluate"])
def test_the_scripts_are_thin(stage, repo):
    assert len((repo / f"{stage}.py").read_text().splitlines()) < 40


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, astromodal.core, astromodal.files.io, astromodal.runs.run, astromodal.config\n"
        "print({'torch', 'sklearn', 'wandb'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SOURCE.parent), "PATH": ""},
    )
    assert result.stdout.strip() == "set()"


def test_src_astromodal_is_the_same_module_set(repo):
    code = (
        "import src.astromodal.vocabulary.vocab as a, astromodal.vocabulary.vocab as b\n"
        "import src.astromodal as p, astromodal as q\n"
        "from src.astromodal.errors import UserError as U; from astromodal.errors import UserError as V\n"
        "assert a is b and p is q and U is V; import importlib; importlib.reload(b)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repo, check=True)
