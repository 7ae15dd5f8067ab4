"""Sends runs to Weights & Biases from their directories: as the run itself would have, once, and on where it grew.

Each line of ``metrics.jsonl`` is one record there, numbered by W&B's own counter. What was sent stands in the run's
``wandb_replay.json`` (:mod:`.marker`); a second replay finds it and sends only what is new.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..compare.rundir import Skipped, find_run_dirs, read_run
from ..errors import ArtifactError, ArtifactMissingError, ConfigError, UserError, printable
from ..files.io import FileLock, plain
from ..provenance import lineage
from ..runs.run import mirror_options
from ..runs.tracking import has_account, legal_id
from .content import OFFLINE, ONLINE, Content, is_synced, own_record, read_content
from .marker import NAME, Sent, read_sent, write_sent

_NOT_IN_NAMES = "/\\#?%:"  # of projects, as W&B says
_MAX_AGAIN = 20  # ids that are tried
FOLDER = "replay"  # of offline records, in the run directory
SENT, CONTINUED, ALREADY, LEFT, FAILED = "sent", "continued", "already there", "left out", "failed"
_QUIET = {
    "disable_git": True,
    "disable_code": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class Unavailable(ArtifactError):
    """Weights & Biases cannot be reached at all: there is no use in trying the next run."""


class Exists(ArtifactError):
    """There is a run of this id already, which is not from a replay of this folder, or there was one."""


@dataclass(frozen=True)
class Target:
    """Where runs go. ``None`` for project or entity: what the run's configuration says."""

    offline: bool = False
    project: str | None = None
    entity: str | None = None
    again: bool = False
    running: bool = False

    def place(self, content: Content) -> tuple[str, str | None]:
        """Project and entity for a run.

        Raises:
            ArtifactError: no project can be called so.
        """
        own = mirror_options(content.run.record, content.config)
        place = self.project or own["project"], self.entity or own["entity"]
        for option, name in zip(("project", "entity"), place, strict=True):
            if set(name or "") & set(_NOT_IN_NAMES) or printable(name) != str(name):
                raise ArtifactError(
                    f"tracking.{option} without any of {_NOT_IN_NAMES}",
                    got=repr(name)[:80],
                    where=content.run.path / "config.json",
                    repair=f"--{option} NAME",
                )
        return place

    def key(self, content: Content) -> str:
        """The place as text, for the marker."""
        project, entity = self.place(content)
        host = OFFLINE if self.offline else os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        return f"{host} {entity or ''}/{project}"

    def is_own(self, content: Content) -> bool:
        """Whether this is where the run itself would go."""
        own = mirror_options(content.run.record, content.config)
        return self.place(content) == (own["project"], own["entity"])


@dataclass(frozen=True)
class Outcome:
    """What became of one run directory; ``ends`` says that there is no use in trying the next one."""

    path: Path
    kind: str
    text: str
    ends: bool = False

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.path}: {self.text}")


def replay(paths: Sequence[Path], target: Target, say: Callable[[str], None] = print) -> list[Outcome]:
    """Replay every run at and below ``paths``, one line each.

    Raises:
        ArtifactMissingError: there is no run.
        ConfigError: online without an account.
        UserError: at the end, if a run could not be replayed; the others are.
    """
    if not target.offline and not has_account():
        raise ConfigError.plain("no Weights & Biases key is configured: wandb login, or --offline and wandb sync later")
    folders = find_run_dirs(paths)
    if not folders:
        where = ", ".join(map(str, paths))
        raise ArtifactMissingError("run directories", got="none", where=where, repair="runs, or runs/train_lm")
    outcomes = []
    for folder in folders:
        outcome = replay_run(folder, target)
        outcomes.append(outcome)
        say(str(outcome))
        if outcome.ends:
            break
    counts = Counter(outcome.kind for outcome in outcomes)
    say(", ".join(f"{counts[kind]} {kind}" for kind in (SENT, CONTINUED, ALREADY, LEFT, FAILED) if counts[kind]))
    if counts[FAILED]:
        raise UserError.plain(f"{counts[FAILED]} of {len(folders)} runs could not be replayed, see above")
    return outcomes


def replay_run(path: Path, target: Target) -> Outcome:
    """Replay one run; what is wrong with it is an outcome, not an exception."""
    run = read_run(path, needs_metric=False)
    if isinstance(run, Skipped):
        return Outcome(path, FAILED, f"{run.status}: {run.reason}")
    if run.status == "running" and not target.running:
        return Outcome(path, LEFT, "still running (--running sends what there is)")
    try:
        with FileLock(path / NAME):
            return _replay(read_content(run), target)
    except Unavailable as error:
        return Outcome(path, FAILED, f"{error}; nothing more was tried", ends=True)
    except (UserError, OSError) as error:
        return Outcome(path, FAILED, " ".join(str(error).split()))
    except Exception as error:  # one odd run does not end the replay of the others
        return Outcome(path, FAILED, f"unreadable: {type(error).__name__}: {' '.join(str(error).split())}"[:400])


def _replay(content: Content, target: Target) -> Outcome:
    path, entries = content.run.path, read_sent(content.run.path)
    of_target = [entry for entry in entries if entry.target == target.key(content)]
    there = None if target.again or of_target else _there_already(content, target, entries)
    if there:
        broke_off = content.run.record.get("wandb_broke_off")
        return Outcome(path, LEFT if broke_off else ALREADY, f"{there}, but it broke off" if broke_off else there)
    known = None if target.again or not of_target else of_target[-1]
    if known and (problem := _cannot_continue(known, content)):
        return Outcome(path, FAILED, problem)
    if known and _is_whole(known, content):
        return Outcome(path, ALREADY, f"{known.id}, {known.lines} records")
    _remove_unfinished(path, entries)
    start = known or _new(content, target, len(of_target))
    for attempt in range(_MAX_AGAIN if target.again else 1):
        try:
            end = _send(content, target, start, entries, known is not None)
            break
        except Exists:
            if not target.again:
                raise
            start = _new(content, target, len(of_target) + attempt + 1)
    else:
        raise Exists.plain(f"{start.id} and {_MAX_AGAIN - 1} more are at Weights & Biases already")
    kind = CONTINUED if start.lines else SENT
    text = f"{end.id}, {end.lines - start.lines} records"
    text += f", wandb sync {path / end.folders[-1]}" if target.offline else ""
    text += "; its last line is unfinished and was left out" if content.torn else ""
    own = own_record(content.run)
    if own and own[0] == OFFLINE and not target.offline:
        text += "; its own offline record must not be synced as well"
    return Outcome(path, kind, text)


def _remove_unfinished(path: Path, entries: Sequence[Sent]) -> None:
    """Offline records of a replay that was killed: they would be synced besides the whole one."""
    finished = {folder for entry in entries for folder in entry.folders}
    for folder in (path / FOLDER / "wandb").glob("offline-run-*"):
        if str(folder.relative_to(path)) not in finished:
            shutil.rmtree(folder, ignore_errors=True)


def _new(content: Content, target: Target, n_before: int) -> Sent:
    """A first replay to a place has the id of the run itself; a forced one an id of its own, so that nothing mixes."""
    own = own_record(content.run) if target.is_own(content) else None
    if own and (own[0] != OFFLINE or target.offline):
        n_before = max(n_before, 1)
    run_id = legal_id(mirror_options(content.run.record, content.config)["run_id"])
    return Sent(target.key(content), f"{run_id[:120]}-{n_before + 1}" if n_before else run_id)


def _there_already(content: Content, target: Target, entries: Sequence[Sent]) -> str | None:
    """Why a run that was never replayed to a place is there all the same."""
    own = own_record(content.run)
    if own and target.is_own(content):
        state, folder = own
        if state != OFFLINE:
            return f"the run itself was {state} (--again makes a second one)"
        if target.offline:
            return f"the run's own offline record: wandb sync {folder}"
    as_offline = replace(target, offline=True).key(content)
    folders = [folder for entry in entries if entry.target == as_offline for folder in entry.folders]
    synced = not target.offline and any(is_synced(content.run.path / folder) for folder in folders)
    return "an offline replay that was synced (--again makes a second one)" if synced else None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _cannot_continue(start: Sent, content: Content) -> str | None:
    if start.lines and _digest(content.data[: start.bytes]) != start.digest:
        return "metrics.jsonl is not what was sent before (the run went back to an earlier step): --again sends it anew"
    return None


def _is_whole(start: Sent, content: Content) -> bool:
    now = (len(content.data), content.run.status, content.summary_fingerprint, content.plot_fingerprints)
    return now == (start.bytes, start.status, start.summary, start.plots)


# ------------------------------------------------------------------------------------------- sending


def _send(content: Content, target: Target, start: Sent, entries: Sequence[Sent], known: bool) -> Sent:
    """Open the run there, send what is not there yet, close it; the marker says so before and after."""
    path, others = content.run.path, [entry for entry in entries if entry is not start]
    write_sent(path, [*others, start])
    try:
        mirror, folder = _open(content, target, start, known)
    except UserError:
        write_sent(path, entries)
        raise
    code = 1
    try:
        step = _send_content(mirror, content, start)
        code = content.exit_code
    except Exception as error:
        raise ArtifactError.plain(f"Weights & Biases failed: {type(error).__name__}: {error}") from error
    finally:
        _finish(mirror, code)
    end = replace(
        start,
        lines=content.lines,
        bytes=len(content.data),
        digest=_digest(content.data),
        next_step=step,
        status=content.run.status,
        summary=content.summary_fingerprint,
        plots=content.plot_fingerprints,
        folders=(*start.folders, folder) if target.offline else start.folders,
    )
    write_sent(path, [*others, end])
    return end


def _send_content(mirror: Any, content: Content, start: Sent) -> int:
    """Records, pictures, summary and lineage; returns W&B's next step."""
    step = start.next_step
    mirror.define_metric("*", step_metric="step")
    there = getattr(mirror, "starting_step", 0)  # where an interrupted replay has come to
    for row in content.rows(start.lines):
        if step >= there:
            mirror.log(row, step=step)
        step += 1
    step = _send_plots(mirror, content, start, step)
    mirror.summary.update(plain(dict(content.run.summary)))
    if (content.config.get("tracking") or {}).get("lineage", True):
        lineage.send(mirror, content.run.record, content.config)
    return step


def _finish(mirror: Any, code: int) -> None:
    """End of the run there, which waits until everything is sent."""
    try:
        mirror.finish(exit_code=code)
    except Exception as error:
        raise ArtifactError.plain(f"Weights & Biases failed at the end: {type(error).__name__}: {error}") from error


def _send_plots(mirror: Any, content: Content, start: Sent, step: int) -> int:
    """Pictures that are new or were drawn again, at the step at which stages show them: the last one, or 0."""
    import wandb

    new = [name for name, value in content.plot_fingerprints.items() if start.plots.get(name) != value]
    for name in new:
        mirror.log(
            {name: wandb.Image(str(content.plots[name])), "step": int(content.run.summary.get("steps") or 0)}, step=step
        )
        step += 1
    return step


def _open(content: Content, target: Target, start: Sent, known: bool) -> tuple[Any, str]:
    """The run at Weights & Biases and its folder, relative to the run directory.

    Raises:
        Exists: a run of this id is there that is not ``known`` from an earlier replay; it is left as it is.
        Unavailable: anything else that W&B says.
    """
    import wandb

    path, options = content.run.path, mirror_options(content.run.record, content.config)
    project, entity = target.place(content)
    (path / FOLDER).mkdir(exist_ok=True)
    names = getattr(wandb.Settings, "model_fields", {})
    settings: dict[str, Any] = {name: value for name, value in _QUIET.items() if name in names}
    if start.folders and "x_sync_dir_suffix" in names:
        settings["x_sync_dir_suffix"] = str(len(start.folders) + 1)  # W&B's names have whole seconds
    if content.run.record.get("sweep_id") and target.is_own(content):
        settings["sweep_id"] = content.run.record["sweep_id"]
    try:
        mirror = wandb.init(
            mode=OFFLINE if target.offline else ONLINE,
            resume="allow" if known else "never",
            id=start.id,
            dir=str(path / FOLDER),
            project=project,
            entity=entity,
            config=plain(options["config"]),
            settings=wandb.Settings(silent=True, console="off", init_timeout=60.0, **settings),
            **{name: options[name] for name in ("name", "group", "job_type", "tags", "notes")},
        )
    except Exception as error:
        if any(words in str(error) for words in ("already exists", "created and deleted")):
            raise Exists.plain(f"{start.id} is at Weights & Biases already, from elsewhere: use --again") from error
        raise Unavailable.plain(f"Weights & Biases is not available: {type(error).__name__}: {error}") from error
    return mirror, str(Path(mirror.dir).parent.relative_to(path)) if target.offline else ""
