"""Where a training step's time goes, and how much of the hardware it uses.

Shapes: L length, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

PARTS = ("data", "forward", "backward", "optimizer", "logging", "checkpointing", "ledger", "rest")
ONCE = "start and end"  # of a run: not a part of a step
# Dense bf16, TFLOP/s, from NVIDIA's data sheets; the first name that the device's name contains.
PEAKS = {"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "A10G": 70.0}


class Parts:
    """Adds up the time spent inside wrapped functions; a part within a part counts for the inner one only."""

    def __init__(self, clock: Callable[[], float], wait: Callable[[], None]) -> None:
        self.clock, self.wait = clock, wait
        self.seconds = dict.fromkeys((*PARTS, ONCE), 0.0)
        self.calls = dict.fromkeys((*PARTS, ONCE), 0)
        self._open: list[float] = []  # time spent in inner parts, of each open part

    def within(self, name: str, function: Callable, *args: Any, **named: Any) -> Any:
        self.wait()
        begin = self.clock()
        self._open.append(0.0)
        try:
            return function(*args, **named)
        finally:
            self.wait()
            spent = self.clock() - begin
            self.seconds[name] += spent - self._open.pop()
            self.calls[name] += 1
            if self._open:
                self._open[-1] += spent

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Time ``owner.attribute`` as part ``name``."""
        function = getattr(owner, attribute)
        setattr(owner, attribute, lambda *args, **named: self.within(name, function, *args, **named))

    def iterate(self, items: Iterable, name: str) -> Iterator:
        """``items``, the time of their making counted."""
        iterator, end = iter(items), object()
        while (item := self.within(name, next, iterator, end)) is not end:
            yield item


class TimedLoader:
    """A loader whose batches are timed as data."""

    def __init__(self, loader: Any, parts: Parts) -> None:
        self.loader, self.parts = loader, parts

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        return self.parts.iterate(self.loader, "data")


class TimedObjective(nn.Module):
    """An objective whose forward pass and preparation are timed."""

    def __init__(self, objective: nn.Module, parts: Parts) -> None:
        super().__init__()
        self.inner, self.parts = objective, parts
        self.model = objective.model

    def prepare(self, batches: list[dict], step: int) -> list[dict]:
        return self.parts.within("data", self.inner.prepare, batches, step)

    def forward(self, batch: dict) -> Any:
        return self.parts.within("forward", self.inner, batch)


def measure_parts(
    make_loop: Callable[..., Any],
    objective: nn.Module,
    loader: Any,
    callbacks: list,
    clock: Callable,
    wait: Callable[[], None],
) -> tuple[Parts, float]:
    """One run of a loop with every part timed; also the seconds in all.

    ``make_loop(objective, loader, callbacks)`` gives the loop, which is wrapped from outside: nothing in it is changed.
    """
    parts = Parts(clock, wait)
    loop = make_loop(TimedObjective(objective, parts), TimedLoader(loader, parts), callbacks)
    parts.wrap(loop.precision, "backward", "backward")
    for owner, names in ((loop.precision, ("gradient_norm", "clip", "step")), (loop.optimizer, ("zero_grad",))):
        for name in names:
            parts.wrap(owner, name, "optimizer")
    for owner, name in ((loop.guard, "check_skipped"), (loop.meters, "add"), (loop, "_log")):
        parts.wrap(owner, name, "logging")
    parts.wrap(loop, "save", "checkpointing")
    for owner, name in ((loop, "_begin"), (loop.saver, "finish_writing"), (loop, "_finish")):
        parts.wrap(owner, name, ONCE)
    for callback in callbacks:
        parts.wrap(callback, "on_step_begin", "ledger")
    wait()
    begin = clock()
    loop.fit()
    wait()
    whole = clock() - begin
    parts.seconds["rest"] = whole - sum(parts.seconds.values())
    return parts, whole


def flops_per_token(model: Any, length: float) -> float:
    """Of training, per real token: 6 per weight of a matrix, and causal attention, forward and backward.

    Chowdhery et al. 2022 (PaLM, arXiv:2204.02311), appendix B, with half of the attention's scores (the other half is
    masked) and without embeddings, which are looked up.
    """
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("blocks"))
    return 6.0 * (matrices + model.head_weight.numel()) + 6.0 * model.n_layers * model.d_model * length


def peak_flops(device: str, given: float | None) -> tuple[float, str]:
    """Peak FLOP/s to compare with, and where it is from: given, the data sheet, or this machine's own products."""
    if given is not None:
        return given * 1e12, "as given"
    if device != "cpu":
        name = torch.cuda.get_device_name()
        found = [peak for key, peak in PEAKS.items() if all(word in name for word in key.split())]
        return (found[0] * 1e12, f"data sheet of {name}, bf16") if found else (float("nan"), f"{name}: unknown")
    return float("nan"), "no data sheet"


def product_rate(
    device: str, dtype: torch.dtype, rows: int, width: int, wait: Callable[[], None], clock: Callable
) -> float:
    """FLOP/s of one matrix product of the model's shape, best of several."""
    a = torch.randn(rows, width, device=device, dtype=dtype)
    b = torch.randn(width, 4 * width, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        wait()
        begin = clock()
        a @ b
        wait()
        best = min(best, clock() - begin)
    return 8.0 * rows * width * width / best
