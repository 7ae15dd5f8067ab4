"""Checkpoints: what training needs to go on to the bit, in files that hold tensors and plain values only.

``<run>/checkpoints/last.pt``, ``best.pt`` and ``step_00005000.pt`` are whole states; ``<run>/best_model.pt`` and
``final_model.pt`` are weights with their configuration. All are written atomically and read with
``weights_only=True``, so a checkpoint from a stranger executes nothing.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import ArtifactError, ArtifactMissingError
from ...files.atomic import _sync_file, _sync_folder, writing
from ...files.bundle_files import WEIGHTS, load_weights_file
from ...files.io import atomic_path, load_torch, plain, save_torch
from ...files.torch_files import check_finite
from ...parallel.sharded import forget_whole, like

KEYS = (
    "model",
    "optimizer",
    "scheduler",
    "scaler",
    "ema",
    "rng",
    "sampler",
    "callbacks",
    "global_step",
    "epoch",
    "config",
    "history",
)
FILES = ("checkpoints", "best_model.pt", "final_model.pt", "training_history.json")  # of a run, in its directory
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_OPTIONAL_PREFIX = "model."  # a checkpoint of a whole objective


class CheckpointStore:
    """The checkpoints of one run directory."""

    def __init__(self, run_dir: Path, keep_last: int = 3, log: logging.Logger | None = None) -> None:
        self.run_dir = Path(run_dir)
        self.folder = self.run_dir / "checkpoints"
        self.keep_last = keep_last
        self.log = log or logging.getLogger(__name__)

    def save(
        self,
        state: Mapping[str, Any],
        *,
        numbered: bool = False,
        best: bool = False,
        after: Iterable[Path] = (),
        then: Iterable[Callable[[Path], None]] = (),
    ) -> Path:
        """Write ``last.pt`` and, if asked, copies of it as ``step_<n>.pt`` and ``best.pt``; prune old numbered ones.

        Args:
            after: files that hold what was recorded of the state; on the disk before the checkpoint is.
            then: called with the path of ``last.pt`` when it is written.

        Raises:
            ArtifactError: a file cannot be written; ``last.pt`` is as it was.
        """
        for path in after:
            _make_durable(path)
        last = self.folder / "last.pt"
        # The others first: whatever instant the run is killed at, last.pt never points past them.
        wanted = [self.folder / "best.pt"] if best else []
        if numbered:
            wanted.append(self.folder / f"step_{int(state['global_step']):08d}.pt")
        source = None
        for path in wanted:
            if source is None:
                save_torch(path, dict(state))
                source = path
            else:
                copy_checkpoint(source, path)
        if source is None:
            save_torch(last, dict(state))
        else:
            copy_checkpoint(source, last)
        if numbered:
            self.prune()
        for job in then:
            job(last)
        return last

    def prune(self) -> None:
        """Remove all but the newest ``keep_last`` numbered checkpoints."""
        for path in self.numbered()[max(self.keep_last, 0) :]:
            with writing(path):
                path.unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Move what an earlier run has left here to a folder of its own, before a new one begins; None: nothing."""
        found = [self.run_dir / name for name in FILES if (self.run_dir / name).exists()]
        if not found:
            return None
        found += [path for path in [self.run_dir / "metrics.jsonl"] if path.exists()]
        taken = {path.name for path in self.run_dir.glob("earlier_*")}
        target = self.run_dir / next(name for n in count(1) if (name := f"earlier_{n}") not in taken)
        with writing(target):
            target.mkdir()
            for path in found:
                path.rename(target / path.name)
        return target

    def numbered(self) -> list[Path]:
        """``step_<n>.pt``, newest first."""
        found = [p for p in self.folder.glob("step_*.pt") if re.fullmatch(r"step_\d+", p.stem)]
        return sorted(found, key=lambda p: int(p.stem[5:]), reverse=True)

    def exists(self) -> bool:
        """Whether there is anything to resume from."""
        return next(self._candidates(), None) is not None

    def _candidates(self) -> Iterator[Path]:
        """Whole states, newest first."""
        others = [*self.numbered(), self.folder / "best.pt"]
        for path in [self.folder / "last.pt", *others]:
            if path.exists():
                yield path

    def best_or_newest(self) -> Path | None:
        """The best weights that were kept, else those of the newest checkpoint."""
        best = self.folder / "best.pt"
        return best if best.exists() else next(self._candidates(), None)

    def load(self) -> dict[str, Any]:
        """The newest whole checkpoint; a damaged one is passed over, and said so.

        Raises:
            ArtifactMissingError: there is none.
            ArtifactError: all are damaged.
        """
        whole: dict[str, Any] | None = None
        damaged = 0
        for path in self._candidates():
            try:
                state = load_checkpoint(path)
            except ArtifactError as error:
                damaged += 1
                self.log.warning("%s cannot be used: %s", path.name, error)
                continue
            if path.name == "last.pt":
                return state
            if whole is None or state["global_step"] > whole["global_step"]:
                whole, chosen = state, path
        if whole is not None:
            self.log.warning("continuing from %s, step %d", chosen.name, whole["global_step"])
            return whole
        if damaged:
            raise ArtifactError(
                "a whole checkpoint",
                got=f"{damaged} damaged ones",
                where=self.folder,
                repair="start anew with resume=null",
            )
        raise ArtifactMissingError(
            "a checkpoint to resume from", got="none", where=self.folder, repair="start anew with resume=null"
        )

    def save_weights(self, name: str, model_state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
        """Write ``<run>/<name>``: ``model_state_dict`` and ``config``, for inference."""
        path = self.run_dir / name
        save_torch(path, {"model_state_dict": dict(model_state), "config": plain(config)})
        return path


def _make_durable(path: Path) -> None:
    """What was appended to ``path`` survives a loss of power, too, as the checkpoint after it will."""
    if path.exists():
        with writing(path):
            _sync_file(path)
            _sync_folder(path.parent)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Atomic copy (no hard link: damage to one file must not be damage to both)."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A whole training state.

    Raises:
        ArtifactMissingError, ArtifactError, UnsafeFileError: as :func:`astromodal.files.io.load_torch`; or the file
            is not a checkpoint of this program, or its weights are not finite.
    """
    state = load_with_keys(path, KEYS, "a checkpoint", "use one from checkpoints/, or init_from for weights alone")
    check_finite(model_state(state["model"], path), path)
    return state


def load_with_keys(path: str | Path, keys: Sequence[str], expected: str, repair: str) -> dict[str, Any]:
    """A file of tensors and plain values that has ``keys``.

    Raises:
        ArtifactMissingError, ArtifactError, UnsafeFileError: as :func:`astromodal.files.io.load_torch`; or the file
            is not what was ``expected``.
    """
    state = load_torch(path)
    missing = [key for key in keys if key not in state] if isinstance(state, dict) else list(keys)
    if missing:
        raise ArtifactError(expected, got=f"a file without {', '.join(missing)}", where=path, repair=repair)
    return state


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes that DistributedDataParallel and ``torch.compile`` put before names.

    >>> unwrapped({"module._orig_mod.head.bias": 0})
    {'head.bias': 0}
    """
    return {_WRAPPERS.sub("", key): value for key, value in state.items()}


def load_model_state(
    model: nn.Module, state: Mapping[str, Tensor], where: object = None, *, finite: bool = True
) -> None:
    """Load weights saved from the bare, a compiled or a wrapped model.

    Raises:
        ArtifactError: names or shapes are not those of ``model``, or, with ``finite``, a value is not.
    """
    state, own = unwrapped(state), model.state_dict()
    if not set(own) & set(state) and any(key.startswith(_OPTIONAL_PREFIX) for key in state):
        state = {k.removeprefix(_OPTIONAL_PREFIX): v for k, v in state.items() if k.startswith(_OPTIONAL_PREFIX)}
    odd = sorted(set(own) ^ set(state)) or [k for k in own if own[k].shape != state[k].shape]
    if odd:
        shapes = [f"{k} {tuple(own[k].shape) if k in own else 'unknown to the model'}" for k in odd[:3]]
        got = [f"{k} {tuple(state[k].shape) if k in state else 'missing'}" for k in odd[:3]]
        raise ArtifactError(
            f"the weights of this {type(model).__name__} ({'; '.join(shapes)})",
            got="; ".join(got),
            where=where,
            repair="use the model configuration of that run",
        )
    if finite:
        check_finite(state, where)
    model.load_state_dict({key: like(value, own[key]) for key, value in state.items()})
    forget_whole(model)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights alone, of a weights file, a checkpoint, a bundle or a run directory (its best, else final model).

    Raises:
        ArtifactMissingError, ArtifactError: nothing there, or weights of another model.
    """
    path = Path(path)
    if path.is_dir():
        names = ("best_model.pt", "final_model.pt", "checkpoints/last.pt", WEIGHTS)
        path = next((path / name for name in names if (path / name).exists()), path / names[0])
    load_model_state(model, model_state(load_weights_file(path), path), path)


def model_state(state: Any, where: object) -> dict[str, Tensor]:
    """The weights in what a weights file or a checkpoint holds, under the names of the bare model.

    Raises:
        ArtifactError: there are none.
    """
    for key in ("model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named:
        raise ArtifactError("a file of weights", got=f"a {type(state).__name__} of other things", where=where)
    return unwrapped(state)
