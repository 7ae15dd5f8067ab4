"""Where a run stands: the counts that say which step is next, whether it is the last, and what is still due."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Position:
    """Everything here is in a checkpoint, and is brought back by it."""

    global_step: int = 0  # optimizer steps, those that were skipped included
    n_updates: int = 0  # steps that moved the weights: position of the schedule
    n_skipped: int = 0  # steps skipped in a row
    total_skipped: int = 0
    pending: bool = False  # the last step's validation and epoch end are still to come
    stop_reason: str | None = None  # the run was asked to end after this step

    def count(self, updated: bool) -> None:
        """One more step was done, and its update made or skipped."""
        self.global_step += 1
        self.n_skipped = 0 if updated else self.n_skipped + 1
        if updated:
            self.n_updates += 1
        else:
            self.total_skipped += 1


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens ``every`` so many steps happens after this one."""
    return every is not None and every > 0 and step % every == 0
