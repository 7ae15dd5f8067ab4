"""The record of a run's numbers: ``metrics.jsonl``, mirrored to Weights & Biases and, if asked for, to TensorBoard.

The file is the record; the dashboard is a convenience. So the file is written first, and whatever goes wrong with the
dashboard (no network, no account, a full quota) is said once and the run goes on. NaN and infinity become ``null``,
because the file is valid JSON.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from ..errors import ArtifactError
from ..files.io import append_jsonl, read_json, truncate_jsonl, write_json
from ..files.io import plain as plain_values
from ..machine.program import program
from ..provenance import lineage
from .tensorboard import TensorBoard

_MODES = ("auto", "online", "offline", "disabled")
Mode = Literal["online", "offline", "disabled"]
_log = logging.getLogger("astromodal.runs.tracking")


def has_account() -> bool:
    """Whether a Weights & Biases key is configured, by variable or netrc; nothing is asked and nothing sent."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc
    from urllib.parse import urlsplit

    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        if path and Path(path).is_file():
            with contextlib.suppress(netrc.NetrcParseError, OSError, UnicodeDecodeError):
                return netrc.netrc(str(path)).authenticators(host) is not None
    return False


def wandb_mode(mode: str) -> Mode:
    """``online``, ``offline`` or ``disabled`` for a configured ``mode``; never one that would prompt.

    ``auto`` obeys the variable ``WANDB_MODE`` and else is online with an account, offline without one.
    """
    mode = getattr(mode, "name", mode)
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "auto").lower()
        mode = mode if mode in _MODES else "auto"
    if mode == "auto":
        return "online" if has_account() else "offline"
    if mode == "online" and not has_account():
        _log.warning(
            "tracking.wandb=online, but no Weights & Biases key is configured: offline (to send it later: "
            f"{program()} wandb replay)"
        )
        return "offline"
    return cast(Mode, mode)  # the schema has no others


class NullTracker:
    """Takes everything and does nothing: for tests, library users and processes other than the first."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of an optimizer step."""

    def image(self, name: str, path: str | Path, step: int | None = None) -> None:
        """A picture, already saved."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final figures."""

    def rewind(self, step: int) -> None:
        """The run goes on from ``step``: what was logged beyond it will come again."""

    def lineage(self, record: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """What the run read and wrote, as ``run.json`` says."""

    def close(self, exit_code: int = 0) -> None:
        """End of the run; ``exit_code`` 0 means success."""


class Tracker(NullTracker):
    """Writes ``<folder>/metrics.jsonl`` and ``summary.json``, and mirrors both to Weights & Biases and TensorBoard.

    Args:
        folder: run directory.
        mode: of Weights & Biases: ``auto``, ``online``, ``offline`` or ``disabled``.
        tensorboard: also write event files to ``<folder>/tensorboard/``.
        project, entity, name, run_id, group, tags, notes, config: as Weights & Biases has them.

    Raises:
        ConfigError: ``tensorboard`` without the package of that name.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        mode: str = "disabled",
        tensorboard: bool = False,
        project: str = "astromodal",
        entity: str | None = None,
        name: str | None = None,
        run_id: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "metrics.jsonl"
        self._start = time.time()
        self._wandb: Any = None
        self.wandb_mode: str | None = None  # online or offline: how the mirror was begun
        self.broke_off = False  # whether it failed on the way
        self._board = TensorBoard(self.folder / "tensorboard") if tensorboard else None
        truncate_jsonl(self.path)  # a line that a killed process left unfinished
        chosen = wandb_mode(mode)
        if chosen != "disabled":
            options = dict(
                project=project,
                entity=entity,
                name=name,
                id=legal_id(run_id) if run_id else None,
                group=group,
                job_type=job_type,
                tags=list(tags or ()),
                notes=notes,
                config=plain_values(config or {}),
                dir=str(self.folder),
            )
            self._wandb = self._begin(chosen, options)

    def _begin(self, mode: Mode, options: dict[str, Any]) -> Any:
        """A Weights & Biases run; offline when online fails, ``None`` when that fails too."""
        attempts: tuple[Mode, ...] = (mode, "offline") if mode == "online" else (mode,)
        for attempt in attempts:
            try:
                import wandb

                settings = wandb.Settings(silent=True, console="off", init_timeout=30.0)
                run = wandb.init(mode=attempt, resume="allow", settings=settings, **options)
                atexit.unregister(_hush_wandb)
                atexit.register(_hush_wandb)  # after W&B has registered its own, so that this comes first
                run.define_metric("*", step_metric="step")
                self.wandb_mode = attempt
                return run
            except Exception as error:
                _log.warning("Weights & Biases (%s) is not available, the run goes on: %s", attempt, _one_line(error))
        return None

    @property
    def wandb_id(self) -> str | None:
        """Id of the Weights & Biases run, if there is one."""
        return getattr(self._wandb, "id", None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append ``{"step", "time", **values}`` to ``metrics.jsonl``; ``time`` is in seconds since 1970.

        Raises:
            ArtifactError: the line cannot be written (the record matters, so this ends the run).
        """
        record = plain_values(values)
        append_jsonl(self.path, {"step": int(step), "time": round(time.time(), 3), **record})
        # The mirror also gets NaN, which its charts can show.
        self._mirror(lambda run: run.log({**_numbers(values), "step": int(step)}))
        self._show(lambda board: board.log(step, values))

    def image(self, name: str, path: str | Path, step: int | None = None) -> None:
        """Show a saved picture on the dashboard."""

        def send(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path))} | ({} if step is None else {"step": int(step)}))

        self._mirror(send)
        self._show(lambda board: board.image(name, path, step))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Merge final figures into ``summary.json`` and the dashboard's summary."""
        path = self.folder / "summary.json"
        try:
            before = read_json(path) if path.exists() else {}
        except ArtifactError:
            before = {}
        write_json(path, before | plain_values(values))
        self._mirror(lambda run: run.summary.update(plain_values(values)))
        self._show(lambda board: board.summary(values))

    def rewind(self, step: int) -> None:
        """Cut ``metrics.jsonl`` off beyond ``step``; TensorBoard no longer shows what lies there."""
        truncate_jsonl(self.path, step)
        self._show(lambda board: board.rewind(step))

    def lineage(self, record: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Show tokenizers, tokens and models as artifacts, by name and fingerprint; a failure loses only that."""
        if self._wandb is None or not (config.get("tracking") or {}).get("lineage", True):
            return
        try:
            lineage.send(self._wandb, record, config)
        except Exception as error:
            _log.warning("the lineage is not shown at Weights & Biases: %s", _one_line(error))

    def close(self, exit_code: int = 0) -> None:
        """End the mirrors; a run that failed is shown as failed."""
        self._mirror(lambda run: run.finish(exit_code=exit_code))
        self._show(lambda board: board.close())
        self._wandb = self._board = None

    def _mirror(self, action: Callable[[Any], None]) -> None:
        """Do something with the mirror at Weights & Biases."""
        before = self._wandb
        self._wandb = _kept("Weights & Biases", before, action, lambda run: run.finish(exit_code=1))
        self.broke_off = self.broke_off or (before is not None and self._wandb is None)

    def _show(self, action: Callable[[TensorBoard], None]) -> None:
        """:meth:`_mirror` for TensorBoard."""
        self._board = _kept("TensorBoard", self._board, action, lambda board: board.close())


def _kept(name: str, mirror: Any, action: Callable[[Any], None], end: Callable[[Any], None]) -> Any:
    """``mirror`` after ``action``; its first error is said and ends the mirroring (None), never the run."""
    if mirror is None:
        return None
    try:
        action(mirror)
    except Exception as error:
        _log.warning("%s failed, metrics.jsonl goes on: %s", name, _one_line(error))
        with contextlib.suppress(Exception):
            end(mirror)
        return None
    return mirror


def _hush_wandb() -> None:
    """At exit, all runs being ended, W&B reports a service of its own that has died with a traceback: not so."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not str(getattr(unraisable.object, "__module__", "")).startswith("wandb."):
            before(unraisable)

    sys.unraisablehook = hook


def legal_id(run_id: str) -> str:
    """``run_id`` as Weights & Biases accepts it.

    >>> legal_id("a/b c")
    'a-b-c'
    """
    return re.sub(r"[/\\#?%:\s]", "-", run_id)[:128]


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """0-dimensional arrays and tensors as numbers."""
    return {k: v.item() if hasattr(v, "item") else v for k, v in values.items()}


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
