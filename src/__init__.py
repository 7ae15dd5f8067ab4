"""In a checkout, ``from src.astromodal…`` works like ``from astromodal…`` and gives the same modules.

One meta-path finder answers every ``src.astromodal[.x]`` with the module ``astromodal[.x]`` itself, so that there is
never a second copy of a class (an alias in ``sys.modules`` alone would still import submodules twice).
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_SOURCE = str(Path(__file__).parent)
if _SOURCE not in sys.path:
    sys.path.insert(0, _SOURCE)


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    prefix = __name__ + ".astromodal"

    def find_spec(self, name, path=None, target=None):
        if name == self.prefix or name.startswith(self.prefix + "."):
            real = importlib.util.find_spec(name.removeprefix(__name__ + "."))
            if real is None:
                return None
            package = real.submodule_search_locations is not None  # of a package, -m runs its __main__
            return importlib.machinery.ModuleSpec(name, self, origin=real.origin, is_package=package)
        return None

    def create_module(self, spec):
        module = importlib.import_module(spec.name.removeprefix(__name__ + "."))
        spec.loader_state = module.__spec__  # the import system is about to overwrite it with the alias's
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state

    def get_code(self, name):  # for ``python -m src.astromodal.x``
        spec = importlib.util.find_spec(name.removeprefix(__name__ + "."))
        return spec.loader.get_code(spec.name)


if not any(isinstance(finder, _Alias) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Alias())
