"""Batches of every length and size, the last of an epoch smaller: no step waits for the device, none is recompiled."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from astromodal.training.callbacks import Callback
from astromodal.training.loop import TrainingLoop
from astromodal.training.watch.guards import Guard
from tests.training.two_processes import N_STEPS, Steps, batch, build, language_model

SIZES = ((6, 11), (6, 9), (5, 10), (2, 7))  # sequences and length of each step


class Ragged(Steps):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for step, (n, length) in enumerate(SIZES):
            whole = batch(100 * self.epoch + step)
            yield {k: (v[:n, :length] if v.ndim > 1 else v[:n]).clone() for k, v in whole.items()}

    def __len__(self) -> int:
        return N_STEPS


def ragged_loop(**kwargs) -> TrainingLoop:
    return build(None, Ragged([]), resume=None, val_every=None, **kwargs)[0]


def test_one_graph_serves_a_whole_run_and_gives_the_same_weights(monkeypatch) -> None:
    graphs, real = [], torch.compile

    def count(graph, _example_inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda module, **options: real(module, backend=count, **options))
    torch._dynamo.reset()
    compiled = ragged_loop(compiled=True, objective=language_model(recompute=True), epochs=3)
    plain = ragged_loop(epochs=3)
    compiled.fit(), plain.fit()
    torch._dynamo.reset()
    assert compiled.global_step == 3 * N_STEPS and len(graphs) == 1
    for a, b in zip(compiled.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Waiting(TorchDispatchMode):
    """Who here asks for values of tensors, or for shapes that depend on values: for a GPU it would wait."""

    OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in self.OPERATORS):
            self.note()
        return function(*args, **(kwargs or {}))

    def note(self) -> None:
        frames = reversed(traceback.extract_stack())
        self.found.add(next((f.name for f in frames if "/astromodal/" in f.filename), "elsewhere"))


def test_a_step_never_waits_for_the_device(monkeypatch) -> None:
    class Watch(Callback):
        def on_step_begin(self, loop: TrainingLoop, batches: list) -> None:
            modes.append(Waiting())
            modes[-1].__enter__()

        def on_step_end(self, loop: TrainingLoop) -> None:
            modes[-1].__exit__(None, None, None)
            modes.append(Waiting())  # of what is between the steps

    modes: list[Waiting] = []
    for name in ("tolist", "numpy", "cpu"):  # these reach no operator on the CPU
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *args, real=real: modes[-1].note() or real(self, *args))
    # What looks at values on the CPU only, where it costs nothing.
    monkeypatch.setattr(Guard, "may_update", lambda self, trace: True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    modes.append(Waiting())  # of what comes before the first step
    ragged_loop(callbacks=(Watch(),), log_every=3, ema_decay=None).fit()
    on_the_host = {"_n_tokens", "open_work"}  # the mask before it is copied, and the segments, which never are
    for step, mode in enumerate(modes[1::2], 1):
        assert mode.found - on_the_host == ({"read"} if step in (3, 6, 8) else set()), step  # the means are recorded
        assert mode.found >= on_the_host
