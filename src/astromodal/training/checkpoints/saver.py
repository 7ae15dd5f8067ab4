"""Who writes the files of one training: whole states in the background or at once, weights, what is due next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files.atomic import writing
from ...parallel import distributed
from .background import BackgroundWriter
from .checkpoint import CheckpointStore

if TYPE_CHECKING:
    from ..network import Network


class Saver:
    """Checkpoints and weights of a run directory; without one (``store`` is None) it writes nothing.

    Its methods are called on all ranks; the first one writes.

    Args:
        in_background: within :meth:`writing_in_background`, :meth:`save` returns when the state is copied.
    """

    def __init__(
        self, store: CheckpointStore | None, config_record: dict[str, Any], in_background: bool, log: logging.Logger
    ) -> None:
        self.store, self.config_record, self.log = store, config_record, log
        self.is_main = distributed.this_rank() == 0
        self.improved = False  # the weights are the best so far, and no checkpoint has them yet
        self.wanted = False  # a callback has asked for a checkpoint
        self._in_background = in_background
        self._writer: BackgroundWriter | None = None

    def save(
        self, state: dict[str, Any], *, numbered: bool, then: Sequence[Callable[[Path], None]], records: Path | None
    ) -> None:
        """Write ``last.pt`` and, when due, the numbered and the best checkpoint.

        Args:
            then: called with the path when it is written.
            records: file that holds what was recorded of the state; on the disk before the checkpoint is.
        """
        if self.store is not None and self.is_main:
            after = () if records is None else (Path(records),)
            write = partial(self.store.save, numbered=numbered, best=self.improved, then=then, after=after)
            if self._writer is None:
                write(state)
            else:
                self._writer.submit(write, state)
        distributed.barrier()

    def save_weights(self, name: str, network: Network) -> None:
        """Write ``<run>/<name>``: the weights that the model holds now, for inference."""
        if self.store is not None:
            weights = network.model_state()
            if self.is_main:
                self.store.save_weights(name, weights, self.config_record)

    def set_aside(self) -> None:
        """A new run in a used folder keeps what the earlier one has left there."""
        if self.store is not None and self.is_main:
            kept = self.store.set_aside()
            if kept is not None:
                self.log.warning("%s holds an earlier run, which is kept in %s", self.store.run_dir, kept.name)
        distributed.barrier()

    @contextmanager
    def writing_in_background(self) -> Iterator[None]:
        """Block in which :meth:`save` does not wait for the disk, if so configured; its end waits.

        Raises:
            ArtifactError: the last checkpoint could not be written.
        """
        if self.store is None or not self._in_background:
            yield
            return
        if self.is_main:
            with writing(self.store.folder):
                self.store.folder.mkdir(parents=True, exist_ok=True)  # records may come before the first checkpoint
        try:
            with BackgroundWriter(self.log) as self._writer:
                yield
        finally:
            self._writer = None

    def finish_writing(self) -> None:
        """Wait until the last checkpoint is on the disk."""
        if self._writer is not None:
            self._writer.wait()

    def last_finite(self) -> str:
        """Where the last weights are that were kept, for a message."""
        self.finish_writing()  # a checkpoint that is on its way to the disk counts
        kept = None if self.store is None else self.store.best_or_newest()
        return "no checkpoint was written before" if kept is None else f"{kept} has the last finite weights"
