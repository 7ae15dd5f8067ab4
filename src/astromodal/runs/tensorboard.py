"""TensorBoard as a second mirror of a run's metrics, where the package ``tensorboard`` is installed.

Events cannot be removed from a file, but a new file may say from which step on older ones no longer count: after a
resume the charts show every step once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.checks.packages import require_package
from ..files.json_files import plain


class TensorBoard:
    """Event files in ``folder``; the first is made by the first record, when it is known where a resumed run goes on.

    Raises:
        ConfigError: the package ``tensorboard`` is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        require_package("tensorboard", "tracking.tensorboard=true", "tracking.tensorboard=false")
        self.folder = Path(folder)
        self._writer: Any = None
        self._purge_step: int | None = None

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=self._purge_step)
            self._purge_step = None
        return self._writer

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers (also 0-dimensional tensors) as scalars at ``step``; they reach the file at once."""
        writer = self._open()
        for name, value in values.items():
            value = value.item() if hasattr(value, "item") else value
            if isinstance(value, int | float):
                writer.add_scalar(name, value, int(step))
        writer.flush()  # TensorBoard's own period is two minutes, which a killed process would lose

    def image(self, name: str, path: str | Path, step: int | None = None) -> None:
        """A saved picture."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._open().add_image(name, pixels, 0 if step is None else int(step), dataformats="HWC")

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final figures as a table of text."""
        rows = [f"| {name} | {value} |" for name, value in plain(values).items()]
        self._open().add_text("summary", "\n".join(["| figure | value |", "|---|---|", *rows]))

    def rewind(self, step: int) -> None:
        """Events beyond ``step`` no longer count."""
        self.close()
        if self.folder.exists():
            self._purge_step = int(step) + 1

    def close(self, exit_code: int = 0) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
