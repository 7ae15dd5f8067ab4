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


def test_no_folder_holds_more_modules_than_one_sees_at_a_glance():
    sizes = {folder: len([*folder.glob("*.py")]) - 1 for folder in {path.parent for path in FILES}}  # less __init__
    assert {str(f.relative_to(SOURCE)): n for f, n in sizes.items() if n > 15} == {}


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


# ------------------------------------------------------------------- what is imported is there, also within functions


def top_level_names(path: Path) -> set[str]:
    """Names that a module binds, its submodules, and what it hands out lazily (``lazy.exports``)."""
    tree = ast.parse(path.read_text())
    names = {p.stem for p in path.parent.glob("*.py")} | {p.name for p in path.parent.iterdir() if p.is_dir()}
    names = names if path.name == "__init__.py" else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "exports":
            texts = [v.value for v in ast.walk(node) if isinstance(v, ast.Constant) and isinstance(v.value, str)]
            names |= {name for text in texts for name in text.split()}
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        names |= {v.value for v in ast.walk(tree) if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    return names


def test_every_name_that_is_imported_from_the_package_is_there(repo):
    """Imports within functions, and those of benchmarks, fail only when they run: here all are looked up, none made."""
    places: dict[str, Path | None] = {}
    known: dict[Path, set[str]] = {}

    def place(module: str) -> Path | None:
        if module not in places:
            base = SOURCE.parent.joinpath(*module.split("."))
            found = [p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()]
            places[module] = found[0] if found else None
        return places[module]

    folders = ("src/astromodal", "src/hydra_plugins", "tests", "benchmarks", "examples")
    files = [*(p for folder in folders for p in (repo / folder).rglob("*.py")), *repo.glob("*.py")]
    lacking, n_names = [], 0
    for path in files:
        inside = ["astromodal", *path.relative_to(SOURCE).parts[:-1]] if SOURCE in path.parents else []
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])]).removeprefix("src.")
            if module.split(".")[0] != "astromodal":
                continue
            home = place(module)
            if home is not None and home not in known:
                known[home] = top_level_names(home)
            for alias in node.names:
                n_names += 1
                if home is None or alias.name not in known[home]:
                    lacking.append(f"{path.relative_to(repo)}:{node.lineno}: {alias.name} of {module}")
    assert n_names > 3000 and not lacking, lacking
