"""Randomness that can be asked again: draws keyed by what they are for, and the state of every generator.

A keyed draw is a pure function of (seed, step, object, position), so that it does not depend on how a step is cut into
micro-batches or ranks, and needs no state in a checkpoint. Idea: Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"; mixing function: splitmix64 (Steele, Lea & Flood 2014).
"""

from __future__ import annotations

import random as python_random
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def splitmix64(state: np.ndarray) -> np.ndarray:
    """Bijective mixing of 64-bit words, elementwise; uint64 in, uint64 out."""
    with np.errstate(over="ignore"):
        z = np.asarray(state, dtype=np.uint64) + np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _words(value: ArrayLike | int) -> np.ndarray:
    """Integers of any sign and size as 64-bit words."""
    if isinstance(value, int):
        return np.asarray(value & _WORD, dtype=np.uint64)
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"expected integer keys, got dtype {array.dtype}")
    return array.astype(np.int64).view(np.uint64) if array.dtype.kind == "i" else array.astype(np.uint64)


def keyed_words(*keys: ArrayLike | int) -> np.ndarray:
    """64 random bits for every combination of keys; the keys are broadcast against each other, their order counts."""
    state = np.asarray(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            # Two rounds each: one round of a difference in the last key alone would stay visible in the low bits.
            state = splitmix64(splitmix64(state ^ _words(key)) + np.uint64(_GOLDEN))
    return state


def keyed_uniform(
    seed: int, step: ArrayLike | int, object_index: ArrayLike | int, position: ArrayLike | int
) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 with 53 random bits, one for every combination of the keys.

    The keys are integers or integer arrays that are broadcast: ``keyed_uniform(0, step, rows[:, None], np.arange(L))``
    is ``(n_rows, L)`` and each row the same whatever other rows are asked for.

    >>> whole = keyed_uniform(0, 3, np.arange(4)[:, None], np.arange(5))
    >>> bool((whole[2:] == keyed_uniform(0, 3, np.array([[2], [3]]), np.arange(5))).all())
    True
    """
    return np.asarray((keyed_words(seed, step, object_index, position) >> np.uint64(11)) * 2.0**-53)


# ------------------------------------------------------------------------------ the global generators


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices).

    Raises:
        ConfigError: ``seed`` is negative or does not fit into 63 bits.
    """
    if not 0 <= seed < 1 << 63:
        raise ConfigError("a seed from 0 to 2**63 - 1", got=seed, where="seed")
    import torch

    python_random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32] if seed >> 32 else seed)
    torch.manual_seed(seed)


def get_rng_state() -> dict[str, Any]:
    """State of the global generators as tensors and plain Python, so that ``weights_only=True`` can read it."""
    import torch

    version, words, gauss = python_random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    state = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "words": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "position": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": [],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Inverse of :func:`get_rng_state`; generators of GPUs that this machine lacks are passed over."""
    import torch

    python, numpy_state = state["python"], state["numpy"]
    python_random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": numpy_state["words"].cpu().numpy().astype(np.uint32), "pos": numpy_state["position"]},
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        }
    )
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state.cpu(), device)
