"""Whether a CPU is any faster in bf16: measured, because no list of processors stays complete.

Without instructions of its own for it (most laptops), a CPU multiplies in bf16 fifty times more slowly than in
float32; with them, faster. A measurement may come out differently on another day, so a run keeps what its first
attempt chose: the choice stands in the checkpoint (:class:`Choice`).
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.schema import HardwareConfig, OptimizerName, Precision

_SIZE, _ROUNDS = 128, 5  # rows and columns of a hidden layer's matrix; a product takes 5 ms where it is slow
_WORTH_IT = 0.7  # of float32's time; where both take about the same, noise would choose, another one each time
_HOPELESS = 4.0  # times slower, and no further round is needed


@dataclass(frozen=True)
class Choice:
    """What a run computes in, and what that was chosen from; names as of ``hardware.precision``."""

    device: str
    wanted: str  # hardware.precision
    precision: str  # of the passes
    muon: str  # of Muon's products

    def after(self, earlier: Choice, insists: bool) -> Choice:
        """What an earlier attempt has chosen, unless the device, ``hardware.precision`` or an answer is another."""
        same = (self.device, self.wanted) == (earlier.device, earlier.wanted)
        return earlier if same and not insists else self


def choose(hardware: HardwareConfig, device: torch.device, optimizer: OptimizerName | None = None) -> Choice:
    """bf16 on a CPU only where it pays, and there ``auto`` is bf16; Muon's products likewise."""
    wanted = Precision(hardware.precision)
    precision, muon = wanted, Precision.bf16
    if device.type == "cpu":
        if wanted in (Precision.auto, Precision.bf16):
            precision = Precision.bf16 if _bf16_pays(hardware) else Precision.float32
        if optimizer is OptimizerName.muon and not _bf16_pays(hardware):
            muon = Precision.float32
    return Choice(device.type, wanted.value, precision.value, muon.value)


def _bf16_pays(hardware: HardwareConfig) -> bool:
    """Whether this CPU is clearly faster in bf16 than in float32; not measured where bits have to be repeated."""
    if hardware.cpu_bf16 is not None:
        return hardware.cpu_bf16
    return not hardware.deterministic and slowdown() < _WORTH_IT


@functools.cache
def slowdown() -> float:
    """Time of a matrix product in bf16 over that in float32, on this CPU; measured once per process.

    One thread, its own time on the CPU, the best of a few rounds of both in turn: what else the machine does must
    not decide.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = torch.randn(_SIZE, _SIZE, generator=torch.Generator().manual_seed(0))
        half = whole.bfloat16()
        rounds = [(_seconds(whole), _seconds(half))]  # to warm up
        for _ in range(_ROUNDS):
            rounds.append((_seconds(whole), _seconds(half)))
            if rounds[-1][1] > _HOPELESS * rounds[-1][0]:
                break
        float32, bf16 = (min(times) for times in zip(*rounds[1:], strict=True))
        return bf16 / float32
    finally:
        torch.set_num_threads(n_threads)


def _seconds(matrix: Tensor) -> float:
    start = time.thread_time()
    matrix @ matrix
    return max(time.thread_time() - start, 1e-9)
