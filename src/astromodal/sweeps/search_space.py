"""What ``-m hydra/sweeper=astromodal_optuna`` searches: swept values of the command line as Optuna's distributions.

Hydra's own grammar: ``a,b`` and ``choice(a,b)`` are categories, ``range(1,9,2)`` steps, ``interval(0,1)`` and
``int(interval(1,9))`` everything between; ``tag(log,interval(1e-5,1e-2))`` is searched by its logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from ..config.reading.conf_files import conf_dir, group_names
from ..config.reading.text_values import text_stays_text
from ..errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Space:
    """Overrides that all jobs have, and what is searched, by key."""

    fixed: tuple[str, ...]
    searched: Mapping[str, BaseDistribution]

    def overrides(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Those of a job with these values of the searched keys."""
        groups = group_names([conf_dir()])
        return (*self.fixed, *(text_stays_text(f"{key}={_text(value)}", groups) for key, value in values.items()))

    def ends(self) -> list[dict[str, Any]]:
        """Points that have every category and both ends of every range at least once; the first values elsewhere."""
        first = {key: _ends(d)[0] for key, d in self.searched.items()}
        points = [first, *(first | {key: end} for key, d in self.searched.items() for end in _ends(d)[1:])]
        return points


def read_space(sweeper: Any, arguments: Sequence[str]) -> Space:
    """The search of a command line, and of a preset's ``params``.

    Raises:
        HydraException: an override that cannot be read.
        ConfigError: nothing to search, or an empty range.
    """
    given = [*(text_stays_text(f"{key}={value}") for key, value in sweeper.params.items()), *arguments]
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    fixed: dict[str, str] = {}
    searched: dict[str, BaseDistribution] = {}
    for override in parser.parse_overrides(given):
        key = override.get_key_element()
        fixed.pop(key, None)
        searched.pop(key, None)  # what stands behind, the command line, counts
        if override.is_sweep_override():
            searched[key] = _distribution(override)
        else:
            fixed[key] = text_stays_text(str(override.input_line), group_names([conf_dir()]))
    if not searched:
        raise ConfigError(
            "swept values to search among",
            got="none",
            where="hydra/sweeper=astromodal_optuna",
            repair="for example 'optimizer.learning_rate=tag(log,interval(1e-4,1e-2))'",
        )
    return Space(tuple(fixed.values()), searched)


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    try:
        if isinstance(sweep, IntervalSweep):
            low, high, log = sweep.start, sweep.end, "log" in sweep.tags
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log=log)
            return FloatDistribution(float(low or 0.0), float(high or 0.0), log=log)
        if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None:
            steps: list[Any] = list(sweep.range())
            if all(isinstance(v, int) for v in steps):
                return IntDistribution(steps[0], steps[-1], step=abs(int(sweep.step)))
            return FloatDistribution(float(steps[0]), float(steps[-1]), step=abs(float(sweep.step)))
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        message = " ".join(str(error).split())[:200]
        raise ConfigError("values to search among", got=override.input_line, where=message or "command line") from error


def _ends(distribution: Any) -> list[Any]:
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices is not None else [distribution.low, distribution.high]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
