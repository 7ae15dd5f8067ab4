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


@dataclass
class AstromodalOptunaConf(BasicSweeperConf):
    """Optuna chooses the jobs; ``max_batch_size`` is how many are proposed and run at a time (null: one)."""

    _target_: str = "hydra_plugins.astromodal_sweeper.AstromodalOptunaSweeper"
    n_trials: int = 20
    sampler: str = "tpe"  # or random
    n_startup_trials: int = 10  # of tpe: drawn at random before it learns from them
    seed: int = 0  # of the proposals


ConfigStore.instance().store(group="hydra/sweeper", name="astromodal_optuna", node=AstromodalOptunaConf)


class AstromodalOptunaSweeper(BasicSweeper):
    """Jobs as Optuna proposes them, under the same contract as every sweep here."""

    def __init__(
        self,
        max_batch_size: int | None,
        n_trials: int,
        sampler: str,
        n_startup_trials: int,
        seed: int,
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.n_trials, self.sampler, self.n_startup_trials, self.seed = n_trials, sampler, n_startup_trials, seed

    def sweep(self, arguments: list[str]) -> Any:
        from astromodal.sweeps.optuna_sweep import run_optuna

        return run_optuna(self, arguments)
