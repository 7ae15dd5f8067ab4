"""The sweeper of ``-m``: Hydra's own, with every job checked first, and sweeps that can be continued.

Hydra loads sweepers from packages of this name only; the work is done in :mod:`astromodal.sweeps`. Annotations are
not postponed here: Hydra executes this file before it is in ``sys.modules``, where ``dataclass`` would look them up.
"""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore


@dataclass
class AstromodalSweeperConf(BasicSweeperConf):
    """Hydra's settings: ``max_batch_size`` and the presets' ``params``."""

    _target_: str = "hydra_plugins.astromodal_sweeper.AstromodalSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="astromodal", node=AstromodalSweeperConf)


class AstromodalSweeper(BasicSweeper):
    """All combinations of the swept values, as Hydra's ``basic`` makes them."""

    def sweep(self, arguments: list[str]) -> Any:
        from astromodal.sweeps import run_sweep

        return run_sweep(self, arguments)
