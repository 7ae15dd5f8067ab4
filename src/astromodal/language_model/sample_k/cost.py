"""What the loss costs at several ``sample_k``: milliseconds and memory, alone and within a whole training step.

The loss alone is the objective with a stand-in for the model, whose last hidden states are known: forward, and
backward to hidden states and head. The whole step is forward and backward of everything, with dropout, without the
optimizer. Times are wall time (with one CPU thread: that thread's, whatever else the machine does) in the precision of
the run; variants take turns within a round, and medians over rounds are given. Choosing positions
(:meth:`LanguageModelObjective.prepare`) costs the same for every k and is left out.

Memory is the peak of what torch allocates for the loss alone above what there was before: on a GPU its allocator knows,
on the CPU its profiler records every allocation. (The resident size of the process would also move with what other
threads and the system do.) On other devices it is not known.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ...loss.language_model import LanguageModelObjective
from ...training.validation import to_device

Batch = dict[str, Any]


class FixedStates(nn.Module):
    """A model whose answer is known: hidden states ``(N, D)`` and a head ``(V, D)``, or logits ``(N, V)``."""

    def __init__(self, states: Tensor, weight: Tensor | None) -> None:
        super().__init__()
        self.states = states.detach().requires_grad_()
        self.leaves = [self.states]
        if weight is not None:
            self.head_weight = weight.detach().requires_grad_()
            self.leaves.append(self.head_weight)

    def hidden(self, *_: Any, **__: Any) -> Tensor:
        return self.states

    forward = hidden


def loss_costs(
    objective: LanguageModelObjective,
    group: list[Batch],
    ks: Sequence[int | None],
    *,
    rounds: int = 5,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    progress: Callable[[int], object] = lambda n: None,
) -> dict[int | None, dict[str, float | None]]:
    """``loss_ms``, ``step_ms`` and ``extra_mb`` (1e6 bytes) by k, for the micro-batches of one optimizer step.

    Args:
        ks: positions per modality; None: every position.
        autocast: context of the forward pass.
    """
    device = next(objective.model.parameters()).device
    prepared = {k: _prepare(objective, group, k, device) for k in ks}
    fixed = _fixed(objective, prepared[ks[0]], autocast)
    loss_times: dict[int | None, list[float]] = {k: [] for k in ks}
    step_times: dict[int | None, list[float]] = {k: [] for k in ks}
    was_training = objective.training
    objective.train()
    try:
        for number in range(rounds + 1):  # the first warms up
            for k in ks:
                loss_ms = _milliseconds(partial(_loss_alone, objective, prepared[k], fixed, autocast), device)
                step_ms = _milliseconds(partial(_whole_step, objective, prepared[k], autocast), device)
                if number:
                    loss_times[k].append(loss_ms)
                    step_times[k].append(step_ms)
                progress(1)
        memory = {k: peak_memory(partial(_loss_alone, objective, prepared[k], fixed, autocast), device) for k in ks}
    finally:
        objective.train(was_training)
    return {k: {"loss_ms": median(loss_times[k]), "step_ms": median(step_times[k]), "extra_mb": memory[k]} for k in ks}


def _prepare(objective: LanguageModelObjective, group: list[Batch], k: int | None, device: torch.device) -> list[Batch]:
    loss = objective.loss
    objective.loss = replace(loss, sample_k=k)
    try:
        return [to_device(batch, device) for batch in objective.prepare(group, 0)]
    finally:
        objective.loss = loss


@torch.no_grad()
def _fixed(
    objective: LanguageModelObjective, prepared: list[Batch], autocast: Callable[[], AbstractContextManager]
) -> list[FixedStates]:
    with autocast():
        return [FixedStates(*objective.states(batch)) for batch in prepared]


def _loss_alone(
    objective: LanguageModelObjective,
    prepared: list[Batch],
    fixed: list[FixedStates],
    autocast: Callable[[], AbstractContextManager],
) -> None:
    model = objective.model
    try:
        for batch, stand_in in zip(prepared, fixed, strict=True):
            objective.model = stand_in
            with autocast():
                loss, _ = objective(batch)
            torch.autograd.grad(loss, stand_in.leaves)
    finally:
        objective.model = model


def _whole_step(
    objective: LanguageModelObjective, prepared: list[Batch], autocast: Callable[[], AbstractContextManager]
) -> None:
    for batch in prepared:
        with autocast():
            loss, _ = objective(batch)
        loss.backward()
    objective.zero_grad(set_to_none=True)


def _milliseconds(run: Callable[[], None], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return 1e3 * (clock() - start)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# ------------------------------------------------------------------------------------------- memory


def peak_memory(run: Callable[[], None], device: torch.device) -> float | None:
    """Peak of what torch allocates in ``run`` above what is in use before it, in 1e6 bytes; None on other devices."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if device.type != "cpu":
        return None
    return max(accumulate(_allocations(run), initial=0)) / 1e6


def _allocations(run: Callable[[], None]) -> list[int]:
    """Bytes of CPU memory that torch takes (or, negative, gives back) in ``run``, in order of time."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler writes lines of its own to standard error
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    records = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    return [event["args"]["Bytes"] for event in sorted(records, key=lambda event: event["ts"])]
