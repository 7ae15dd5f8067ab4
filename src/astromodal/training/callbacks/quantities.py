"""Quantities that change while a model trains: curricula (a function of the step) and feedback (of a measurement).

A quantity is named by its path from the objective, else from the loop: ``beta``, ``term_weights.1`` (an element of a
tensor), ``training.grad_clip``. A tensor is written in place, so that a compiled graph stays as it is; a configuration
is replaced, never changed, because it belongs to the caller. What was set is logged as ``optim/<name>``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, MutableMapping
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ConfigError
from .hooks import Callback, look_up

if TYPE_CHECKING:
    from ..loop import TrainingLoop


def set_quantity(loop: TrainingLoop, name: str, value: float) -> None:
    """Give the quantity called ``name`` the value ``value``, and note it for the log.

    Raises:
        ConfigError: neither the objective nor the loop has it, or it is no number.
    """
    parts = name.split(".")
    owner = next((o for o in (loop.objective, loop) if _leads_to(o, parts)), None)
    if owner is None:
        raise _no_such(loop.objective, parts[0], name)
    _assign(owner, parts, float(value), name)
    loop.quantities[name] = float(value)


def _leads_to(owner: Any, parts: list[str]) -> bool:
    for part in parts:
        if not _has(owner, part):
            return False
        owner = _get(owner, part)
    return True


def _get(owner: Any, part: str) -> Any:
    if isinstance(owner, MutableMapping):
        return owner[part]
    return owner[int(part)] if isinstance(owner, Tensor) else getattr(owner, part)


def _has(owner: Any, part: str) -> bool:
    if isinstance(owner, MutableMapping):
        return part in owner
    return part.isdecimal() and int(part) < len(owner) if isinstance(owner, Tensor) else hasattr(owner, part)


def _assign(owner: Any, parts: list[str], value: float, name: str) -> Any:
    """Set ``parts`` below ``owner``; returns what then stands in the place of ``owner``."""
    part = parts[0]
    old = _get(owner, part)  # of a tensor: a view of its element
    if len(parts) > 1:
        new = _assign(old, parts[1:], value, name)
    elif isinstance(old, Tensor):
        new = _fill(old, value)
    elif isinstance(old, bool) or not (old is None or isinstance(old, int | float)):
        raise ConfigError("a number to set over time", got=f"a {type(old).__name__}", where=name)
    else:
        new = value
    if new is old or isinstance(owner, Tensor):
        return owner
    if is_dataclass(owner) and not isinstance(owner, type):
        return replace(owner, **{part: new})
    if isinstance(owner, MutableMapping):
        owner[part] = new
    else:
        setattr(owner, part, new)
    return owner


@torch.no_grad()
def _fill(tensor: Tensor, value: float) -> Tensor:
    return tensor.fill_(value)


def _no_such(owner: torch.nn.Module, part: str, name: str) -> ConfigError:
    known = [k for k in vars(owner) if k[0] != "_"] + [key for key, _ in owner.named_buffers(recurse=False)]
    near = difflib.get_close_matches(part, known, n=1)
    return ConfigError(
        "a quantity of the objective or of the loop",
        got=repr(name),
        repair=f"did you mean {near[0]!r}?" if near else None,
    )


# ----------------------------------------------------------------------------------------- curricula


def ramp(start: float, end: float, n_steps: int, *, delay: int = 0, shape: str = "linear") -> Callable[[int], float]:
    """A function of the step: ``start`` up to step ``delay``, ``end`` from ``delay + n_steps`` on, between them a line
    or half a cosine.

    Raises:
        ConfigError: fewer than one step, or another shape.

    >>> curve = ramp(0.1, 1.0, 10, delay=5)
    >>> [round(curve(k), 2) for k in (0, 5, 10, 15, 99)]
    [0.1, 0.1, 0.55, 1.0, 1.0]
    """
    if n_steps < 1:
        raise ConfigError("n_steps of 1 or more", got=n_steps, where="ramp")
    if shape not in ("linear", "cosine"):
        raise ConfigError("a shape linear or cosine", got=repr(shape), where="ramp")

    def value(step: int) -> float:
        progress = min(1.0, max(0.0, (step - delay) / n_steps))
        if shape == "cosine":
            progress = 0.5 * (1.0 - math.cos(math.pi * progress))
        return start + (end - start) * progress

    return value


class ScheduledValue(Callback):
    """Sets a quantity before every step to a function of the step's number (1, 2, …); it has no state to lose.

    A quantity that is a plain attribute of a compiled objective costs a recompilation at every change; make it a
    buffer (``register_buffer``) there.
    """

    def __init__(self, name: str, function: Callable[[int], float]) -> None:
        self.name, self.function = name, function

    def on_step_begin(self, loop: TrainingLoop, batches: list[dict[str, Any]]) -> None:
        set_quantity(loop, self.name, self.function(loop.global_step + 1))


# ------------------------------------------------------------------------------------------ feedback


class Controller:
    """Holds a measured quantity near a target by a multiplier: too high raises the value, too low lowers it.

    The logarithm of the value is the integral of the error, ``log v += gain * clip((measured - target) / tolerance)``,
    so that the value stays positive and a change is relative; inside of the tolerance nothing changes. It is the
    integral term of a PID controller, as ControlVAE (Shao et al. 2020, arXiv:2004.05988) holds a KL divergence.

    Args:
        gain: largest relative change of the value per update (0.1: about 10 %); negative where a larger value raises
            the measured quantity.
        limits: least and largest value.
    """

    def __init__(
        self,
        target: float,
        tolerance: float,
        value: float = 1.0,
        *,
        gain: float = 0.1,
        limits: tuple[float, float] = (1e-4, 1e4),
    ) -> None:
        """Raises ConfigError for a tolerance or limits that are not above 0, or a value outside of them."""
        if not tolerance > 0:
            raise ConfigError("a tolerance above 0", got=tolerance, where="Controller")
        if not 0 < limits[0] <= value <= limits[1]:
            raise ConfigError("0 < limits[0] <= value <= limits[1]", got=f"{limits} and {value}", where="Controller")
        self.target, self.tolerance, self.value = target, tolerance, float(value)
        self.gain, self.limits = gain, limits

    def update(self, measured: float) -> float:
        """The value after one more measurement; NaN and infinity change nothing."""
        error = (measured - self.target) / self.tolerance
        if math.isfinite(error) and abs(error) > 1.0:
            moved = self.value * math.exp(self.gain * math.copysign(min(abs(error) - 1.0, 1.0), error))
            self.value = min(max(moved, self.limits[0]), self.limits[1])
        return self.value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = float(state["value"])


class FeedbackValue(Callback):
    """Sets a quantity to what a controller makes of a metric.

    Args:
        name: of the quantity.
        monitor: ``train/…`` (read every ``training.log_every`` steps) or ``val/…`` (read at validations).
        controller: :class:`Controller`, or anything with ``value``, ``update(measured) -> value`` and the two state
            methods.
    """

    def __init__(self, name: str, monitor: str, controller: Controller) -> None:
        self.name, self.monitor, self.controller = name, monitor, controller

    def on_fit_start(self, loop: TrainingLoop) -> None:
        set_quantity(loop, self.name, self.controller.value)

    def _follow(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        value = look_up(metrics, self.monitor)
        if value is None:
            raise ConfigError(f"a metric {self.monitor}", got=", ".join(sorted(metrics)), where="FeedbackValue")
        set_quantity(loop, self.name, self.controller.update(float(value)))

    def on_log(self, loop: TrainingLoop, values: dict[str, float]) -> None:
        if not self.monitor.startswith("val"):
            self._follow(loop, values)

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        if self.monitor.startswith("val"):
            self._follow(loop, metrics)

    def state_dict(self) -> dict[str, Any]:
        return self.controller.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.controller.load_state_dict(state)
