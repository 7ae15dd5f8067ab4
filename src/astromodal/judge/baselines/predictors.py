"""The baselines by name: which there are, and which of them this machine and this question allow."""

from __future__ import annotations

from collections.abc import Sequence

from ...config.schema import Baseline
from ...errors import ConfigError
from .tabicl import TabICL, missing
from .tabular_network import Network
from .values import Boosting, BoostingColours, Marginal, Neighbours, Predictor

PREDICTORS: dict[str, type[Predictor]] = {
    kind.name: kind for kind in (Marginal, Boosting, BoostingColours, Neighbours, Network, TabICL)
}


def make_predictor(name: str, levels: Sequence[float], seed: int = 0) -> Predictor:
    """A baseline by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PREDICTORS:
        raise ConfigError(f"a baseline of {', '.join(PREDICTORS)}", got=name, where="baselines")
    return PREDICTORS[name](levels, seed)


def wanted_baselines(baselines: Sequence[Baseline] | None) -> tuple[str, ...]:
    """Names of the wanted baselines; without any wish, of all that can be had on this machine.

    What is asked for by name stays, and says what it lacks when it is fitted.
    """
    if baselines is not None:
        return tuple(Baseline(baseline).value for baseline in baselines)
    return tuple(name for name in PREDICTORS if name != TabICL.name or missing() is None)
