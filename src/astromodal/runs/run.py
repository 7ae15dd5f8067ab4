"""A run and its directory: what was run, with what, on what, and how it ended.

    runs/<stage>/<name>/<run_id>/  config.yaml config.json run.json <stage>.log metrics.jsonl …

``run.json`` says RUNNING from the first moment and DONE, FAILED (with the traceback) or INTERRUPTED at the end; a
process that was killed leaves RUNNING and no lock. In distributed runs only the first process writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..config.checks.names import check_name
from ..config.launching.run_id import make_run_id
from ..config.reading.containers import to_dict
from ..errors import ArtifactError, UserError, printable
from ..files.atomic import writing
from ..files.io import plain, read_json, write_json, write_text
from ..files.locks import FileLock
from ..machine.memory import forget_peak, peak_memory
from ..parallel.rank import broadcast_object, is_main, rank, world_size
from ..provenance.manifest import git_state, package_versions, utc_now
from .progress import Progress, TerminalHandler, format_seconds
from .tracking import NullTracker, Tracker

_LOGGER = "astromodal"
SCHEMA_VERSION = 1


def wandb_id(stage: str, run_id: str, job: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """``<stage>-<run_id>[-<job>]``; only a sweep agent's own id is taken as it is.

    >>> wandb_id("train_lm", "abc", "3", {}), wandb_id("train_lm", "abc", None, {"WANDB_RUN_ID": "abc"})
    ('train_lm-abc-3', 'train_lm-abc')
    >>> wandb_id("train_lm", "abc", None, {"WANDB_RUN_ID": "abc", "WANDB_SWEEP_ID": "s1"})
    'abc'
    """
    if environ.get("WANDB_SWEEP_ID") and environ.get("WANDB_RUN_ID"):
        return environ["WANDB_RUN_ID"]
    return "-".join([stage, run_id] + ([job] if job is not None else []))


def mirror_options(record: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """How a run is called at Weights & Biases, from its ``run.json`` and configuration: arguments of :class:`Tracker`.

    Jobs of a sweep (``-m``) are a group of the sweep's id, runs of a sweep agent a group of that sweep's id.
    """
    tracking = config.get("tracking") or {}
    stage, run_id, job, sweep = str(record["stage"]), str(record["run_id"]), record.get("job"), record.get("sweep_id")
    agent = {"WANDB_SWEEP_ID": sweep, "WANDB_RUN_ID": run_id} if sweep else {}
    return {
        "project": tracking.get("project") or "astromodal",
        "entity": tracking.get("entity"),
        "name": "-".join([str(config.get("name") or stage), run_id] + ([job] if job else [])),
        "run_id": record.get("wandb_id") or wandb_id(stage, run_id, job, agent),
        "group": tracking.get("group") or (run_id if job is not None else sweep),
        "job_type": stage,
        "tags": [stage, *(tracking.get("tags") or [])],
        "notes": tracking.get("notes"),
        "config": config,
    }


def sweep_job() -> str | None:
    """Name of this job's folder in a Hydra sweep: its number there, also when the sweep is continued."""
    if "hydra" not in sys.modules:
        return None
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return str(HydraConfig.get().sweep.subdir)


class _FileHandler(logging.FileHandler):
    """A log file whose disk may fill up without ending the run, or flooding the terminal."""

    failed = False

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            sys.stderr.write(f"the log {self.baseFilename} cannot be written: {sys.exc_info()[1]}\n")


class RunContext:
    """One run of one stage. Use :meth:`open` in a ``with`` statement.

    Attributes:
        dir: run directory.
        id: run id (in a sweep the sweep's, which all jobs share).
        job: number of the job in a sweep, else ``None``.
        log: logger that writes to the terminal and to ``<stage>.log``.
        tracker: metrics; a :class:`NullTracker` outside of a ``with`` block and in processes other than the first.
        config: resolved configuration as plain values.
    """

    def __init__(self, cfg: Any, stage: str, resume: bool = False) -> None:
        from omegaconf import DictConfig, OmegaConf

        if not isinstance(cfg, DictConfig):
            cfg = OmegaConf.create(dict(cfg)) if isinstance(cfg, Mapping) else OmegaConf.structured(cfg)
        self.config: dict[str, Any] = to_dict(cfg, resolve=True, enum_to_str=True)
        self.stage, self.resume = stage, resume
        given = self.config.get("run_id")
        self.id: str = broadcast_object(str(given) if given not in (None, "???", "") else make_run_id())
        folder = self.config.get("run_dir")
        if folder in (None, "???", ""):
            own = check_name(self.config.get("name"), "name"), check_name(self.id, "run_id")
            folder = Path(self.config.get("paths", {}).get("runs", "runs")).joinpath(stage, *own)
        self.dir = Path(broadcast_object(str(folder))).absolute()
        self.job = sweep_job()
        self.log = logging.getLogger(f"{_LOGGER}.{stage}")
        self.tracker: NullTracker = NullTracker()
        self._lock = FileLock(self.dir / ".run")
        self._handlers: list[logging.Handler] = []
        self._record: dict[str, Any] = {}
        self._start = time.monotonic()
        self._main = is_main()

    @classmethod
    def open(cls, cfg: Any, stage: str, resume: bool = False) -> RunContext:
        """A run of ``stage``; nothing is written before the ``with`` block is entered.

        Args:
            cfg: the configuration (``run_id``, ``run_dir``, ``name``, ``tracking``, …).
            resume: go on in the run directory of a run that has ended or was killed; its id is kept.

        Raises (on entering):
            ArtifactError: another process works in the directory, it holds another run and ``resume`` is off, or it
                cannot be written to.
        """
        return cls(cfg, stage, resume)

    # ------------------------------------------------------------------------------- begin and end

    def __enter__(self) -> RunContext:
        self._start = time.monotonic()
        forget_peak()
        if self._main:
            self._lock.acquire()
        try:
            self._begin()
        except BaseException:
            self._finish_logging()
            self._lock.release()
            raise
        return self

    def _begin(self) -> None:
        if self._main:
            self._record = self._new_record()
            self.id = self._record["run_id"]
        self.id = broadcast_object(self.id)
        self.config["run_id"] = self.id
        if self._main:
            self._write_config()
            self._write_record()
        self._begin_logging()
        if self._main:
            self.tracker = self._new_tracker()
            if getattr(self.tracker, "wandb_id", None):
                self._record |= {"wandb_id": self.tracker.wandb_id, "wandb_mode": self.tracker.wandb_mode}
                self._write_record()
            self.log.info("%s %s in %s", "resuming" if self._record["resumed"] else "run", self.id, self.dir)

    def _new_record(self) -> dict[str, Any]:
        """Content of ``run.json`` at the start; what an earlier attempt left goes to ``attempts``."""
        path = self.dir / "run.json"
        attempts, run_id, created, job = [], self.id, utc_now(), self.job
        if path.exists():
            if not self.resume:
                old = _status_of(path)
                raise ArtifactError(
                    "a run directory of its own",
                    got=f"one of run {old}",
                    where=self.dir,
                    repair="use another run_id or name, or resume that run",
                )
            old = read_json(path)
            if old.get("stage") != self.stage:
                raise ArtifactError(
                    f"a run of {self.stage} to resume", got=f"one of {old.get('stage')}", where=self.dir
                )
            run_id, created = old.get("run_id", run_id), old.get("created", created)
            job = old.get("job") if job is None else job  # a job of a sweep that goes on alone stays what it was
            kept = ("started", "ended", "seconds", "status", "error", "command", "git", "process")
            attempts = [*old.get("attempts", []), {key: old[key] for key in kept if key in old}]
        return {
            "schema_version": SCHEMA_VERSION,
            "stage": self.stage,
            "name": self.config.get("name"),
            "run_id": run_id,
            "job": job,
            "status": "RUNNING",
            "created": created,
            "started": utc_now(),
            "ended": None,
            "seconds": None,
            "command": shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]]),
            "process": os.getpid(),
            "world_size": world_size(),
            "seed": self.config.get("seed"),
            "resumed": bool(attempts),
            "git": git_state(),
            "versions": package_versions(),
            "inputs": {},
            "outputs": {},
            "attempts": attempts,
        } | ({"sweep_id": os.environ["WANDB_SWEEP_ID"]} if os.environ.get("WANDB_SWEEP_ID") else {})

    def _write_config(self) -> None:
        import yaml
        from omegaconf import omegaconf

        # as OmegaConf.to_yaml writes it, which first makes nodes of what is plain and takes four times as long
        dumper = omegaconf.get_omega_conf_dumper()
        text = yaml.dump(self.config, Dumper=dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
        write_text(self.dir / "config.yaml", text)
        write_json(self.dir / "config.json", self.config)

    def _write_record(self) -> None:
        if not self.dir.is_dir():  # else it would be made again, with nothing in it but this
            raise ArtifactError(
                "the directory of this run",
                got="it is gone: something removed or moved it",
                where=self.dir,
                repair="run again",
            )
        write_json(self.dir / "run.json", self._record)

    def _new_tracker(self) -> Tracker:
        tracking = self.config.get("tracking") or {}
        return Tracker(
            self.dir,
            mode=tracking.get("wandb", "disabled"),
            tensorboard=bool(tracking.get("tensorboard", False)),
            **mirror_options(self._record, self.config)
            | {"run_id": wandb_id(self.stage, self.id, self._record["job"])},  # a sweep agent's, if this has one
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the end of the run; the exception goes on. A failure to write it never hides the exception."""
        status = "DONE"
        if error is not None:
            status = "FAILED" if isinstance(error, Exception) else "INTERRUPTED"
        try:
            if self._main:
                self._end(status, error)
        except Exception as failure:
            if error is None:
                raise
            self.log.warning("the end of the run could not be recorded: %s", failure)
        finally:
            self.tracker = NullTracker()
            self._finish_logging()
            self._lock.release()

    def _end(self, status: str, error: BaseException | None) -> None:
        self._record |= {"status": status, "ended": utc_now(), "seconds": round(self.seconds, 3), **peak_memory()}
        if error is not None:
            text = "".join(traceback.format_exception(error))
            self._record["error"] = {"type": type(error).__name__, "message": str(error), "traceback": text}
            self._to_file(text)
        self._say_end(status, error)
        if getattr(self.tracker, "broke_off", False):
            self._record["wandb_broke_off"] = True
        try:
            self._write_record()
        finally:
            if status != "INTERRUPTED":  # whoever interrupts does not wait
                self.tracker.lineage(self._record, self.config)
            self.tracker.close(exit_code=0 if status == "DONE" else 1)
            if getattr(self.tracker, "broke_off", False) and "wandb_broke_off" not in self._record:
                self.record(wandb_broke_off=True)

    def _say_end(self, status: str, error: BaseException | None) -> None:
        took = format_seconds(self.seconds)
        if status == "DONE":
            self.log.info("done in %s: %s", took, self.dir)
        elif isinstance(error, UserError):
            self._to_file(f"failed after {took}: {error}")  # the entry script prints this one line on the terminal
        elif status == "INTERRUPTED":
            self._to_file(f"interrupted after {took}: {type(error).__name__}: {error}")  # and that it was interrupted
        else:
            self.log.error("%s after %s: %s: %s", status.lower(), took, type(error).__name__, error)

    # --------------------------------------------------------------------------------- log and progress

    def _begin_logging(self) -> None:
        """Terminal: messages as they are; file: time and level, one line each. Other processes only warn."""
        logger = logging.getLogger(_LOGGER)
        terminal = TerminalHandler(sys.stderr)
        terminal.setFormatter(logging.Formatter("%(message)s" if self._main else f"[rank {rank()}] %(message)s"))
        terminal.setLevel(logging.INFO if self._main else logging.WARNING)
        self._handlers = [terminal]
        if self._main:
            with writing(self.dir):
                file = _FileHandler(self.dir / f"{self.stage}.log", encoding="utf-8")
            file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
            self._handlers.append(file)
        self._old_level = logger.level
        logger.setLevel(logging.INFO)
        for handler in self._handlers:
            logger.addHandler(handler)

    def _finish_logging(self) -> None:
        logger = logging.getLogger(_LOGGER)
        for handler in self._handlers:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()
        if self._handlers:
            logger.setLevel(self._old_level)
        self._handlers = []

    def _to_file(self, text: str) -> None:
        """Lines for the log file only."""
        for handler in self._handlers:
            if isinstance(handler, _FileHandler):
                handler.handle(self.log.makeRecord(self.log.name, logging.ERROR, __file__, 0, text, (), None))

    def progress(self, total: int | None, desc: str, *, unit: str = "", initial: int = 0) -> Progress:
        """A bar on a terminal, plain lines otherwise; ``bar.update(n, **values)``, ``bar.close()`` or ``with``."""
        return Progress(total, desc, self.log, unit=unit, initial=initial, enabled=self._main)

    # --------------------------------------------------------------------------------------- record

    @property
    def seconds(self) -> float:
        """Seconds since the run began (this attempt)."""
        return time.monotonic() - self._start

    def add_input(self, name: str, fingerprint: str) -> None:
        """Record in ``run.json`` what the run reads."""
        self.record(inputs={**self._record.get("inputs", {}), name: fingerprint})

    def add_output(self, name: str, fingerprint: str) -> None:
        """Record in ``run.json`` what the run has made for other runs."""
        self.record(outputs={**self._record.get("outputs", {}), name: fingerprint})

    def record(self, **values: Any) -> None:
        """Put further entries into ``run.json`` (results, notes)."""
        if self._main and self._record:
            self._record |= plain(values)
            self._write_record()


def in_use(folder: str | Path) -> bool:
    """Whether a living process holds the lock of the run in ``folder``; writes nothing there."""
    try:
        handle = os.open(Path(folder) / ".run.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # a shared lock, let go at once
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _status_of(path: Path) -> str:
    """``<id> (<status>)`` of a run directory, even of a damaged one."""
    try:
        old = read_json(path)
        return f"{old.get('run_id')} ({old.get('status')})"
    except (ArtifactError, AttributeError):
        return "unknown (run.json is damaged)"
