"""The schema's modules: one public face, types that resolve in the module that names them, no cycles."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import subprocess
import sys
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from omegaconf import OmegaConf

from astromodal.config import schema

MODULES = sorted(m.name for m in pkgutil.iter_modules(schema.__path__))
SOURCE = Path(schema.__file__).parents[3]


@pytest.mark.parametrize("module", MODULES)
def test_every_class_of_a_module_is_a_name_of_the_package(module):
    home = import_module(f"astromodal.config.schema.{module}")
    classes = {name: value for name, value in vars(home).items() if inspect.isclass(value)}
    own = {name: value for name, value in classes.items() if value.__module__ == home.__name__}
    assert own
    assert {name for name, value in own.items() if getattr(schema, name, None) is not value} == set()
    assert set(own) <= set(schema.__all__)


@pytest.mark.parametrize("name", [n for n in schema.__all__ if dataclasses.is_dataclass(getattr(schema, n))])
def test_omegaconf_resolves_the_types_of_every_section(name):
    kind = getattr(schema, name)
    node = OmegaConf.structured(kind)
    assert set(node) == set(get_type_hints(kind)) == {f.name for f in dataclasses.fields(kind)}
    for key, default in vars(kind()).items():
        if isinstance(default, Enum):
            assert OmegaConf.get_type(node, key) is type(default)


def test_any_module_can_be_imported_first():
    code = (
        "import sys\nfrom importlib import import_module\n"
        f"for name in {MODULES!r}:\n"
        "    for known in [m for m in sys.modules if m.startswith('astromodal')]: del sys.modules[known]\n"
        "    import_module(f'astromodal.config.schema.{name}')\n"
        "print({'torch', 'hydra', 'sklearn', 'wandb'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE), "PATH": ""}
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "set()"
