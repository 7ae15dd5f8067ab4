"""Checkpoints written beside the training: the state is copied at once, and the copy is written by a thread.

The copy goes to CPU memory (from a GPU into pinned memory, in the order of the stream, so that not even the GPU is
waited for) and into the same buffers every time: new memory would have to be mapped page by page, which takes six
times as long as the copy itself. The price is one more state in CPU memory for as long as training lasts.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """Copies of nested dicts, lists and tensors that later changes of the original do not reach."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._n_used = 0
        self._known: dict[tuple, Tensor] = {}
        self._event: Any = None

    def take(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of ``state``; it is overwritten by the next call. Tied tensors stay tied."""
        self._n_used, self._known, self._event = 0, {}, None
        taken = self._copied(state)
        del self._buffers[self._n_used :]
        self._known = {}
        return taken

    def wait(self) -> None:
        """Wait until copies from a GPU have arrived; from any thread."""
        if self._event is not None:
            self._event.synchronize()

    def _copied(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value.detach())
        if isinstance(value, dict):
            new = copy.copy(value)  # keeps the type, and what torch attaches to a state dict
            for key, item in value.items():
                new[key] = self._copied(item)
            return new
        if isinstance(value, list | tuple):
            return type(value)(self._copied(item) for item in value)
        return value if isinstance(value, str | int | float | None) else copy.deepcopy(value)

    def _tensor(self, tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
        if tensor.numel() and key in self._known:
            return self._known[key]
        buffer = self._buffers[self._n_used] if self._n_used < len(self._buffers) else None
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            pinned = tensor.device.type == "cuda"
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
            self._buffers[self._n_used :] = [buffer]  # what followed belonged to another state
        self._n_used += 1
        buffer.copy_(tensor, non_blocking=True)
        if tensor.device.type == "cuda":
            self._event = self._event or torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))
        self._known[key] = buffer
        return buffer


class BackgroundWriter:
    """One writing job at a time, in a thread of its own.

    As a context it waits for the last job. A job's error is raised by the next :meth:`submit` or :meth:`wait`, or
    at the end of the block; an error of the block itself goes before it.
    """

    def __init__(self, log: logging.Logger | None = None) -> None:
        self.log = log or logging.getLogger(__name__)
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[dict[str, Any]], object], state: Mapping[str, Any]) -> None:
        """Copy ``state`` and begin ``job(copy)``, after the job before it.

        Raises:
            ArtifactError: the job before it could not write.
        """
        self.wait()
        taken = self._snapshot.take(state)
        # No daemon: the interpreter, too, waits for a file that is being written.
        self._thread = threading.Thread(target=self._run, args=(job, taken), name="checkpoint", daemon=False)
        self._thread.start()

    def _run(self, job: Callable[[dict[str, Any]], object], taken: dict[str, Any]) -> None:
        try:
            self._snapshot.wait()
            job(taken)
        except BaseException as error:  # whatever it is belongs to the training thread
            self._error = error

    def wait(self) -> None:
        """Wait for the job, if there is one.

        Raises:
            ArtifactError: it could not write; the message names the file.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            self.log.warning("the last checkpoint could not be written: %s", failure)
