"""What the trainer optimises: the error at hidden positions of ``(x_recon, z, visible_mask) = model(x)``.

Shapes: B batch, L values of a spectrum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....codecs.masking import VALIDATION_STEP, error_sums, hidden_blocks
from ....errors import ConfigError, DataError
from ....models.trainable import Batch
from ....parallel import distributed
from ..models import ChemoMAE


class MaskedReconstruction(nn.Module):
    """Objective of the training loop around a model that returns ``(x_recon, z, visible_mask)``.

    Masks of :class:`ChemoMAE` are a function of (seed, step, row of the step), in validation of (seed, row of the
    split): the same in every validation. Other models draw their own; torch is seeded anew before each validation.

    Args:
        loss_type: ``mse`` or ``sse``. As in ChemoMAE, both are sums of squared errors under the given reduction.
        reduction: ``sum``, ``mean`` (over hidden positions) or ``batch_mean`` (over spectra).
    """

    def __init__(self, model: nn.Module, loss_type: str, reduction: str, seed: int = 0) -> None:
        super().__init__()
        self.model, self.loss_type, self.reduction, self.seed = model, loss_type, reduction, seed

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Draw the masks."""
        first = distributed.this_rank() << 32
        for batch in batches:
            self._draw(batch, step, np.arange(first, first + len(batch["x"])))
            first += len(batch["x"])
        return batches

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's loss; one batch is one step of one process."""
        total, denominators = self._error(batch)
        loss = total / denominators[self.reduction]()
        if self.reduction != "sum":
            loss = loss / distributed.n_ranks()
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums of squared errors at hidden positions, with what they are divided by."""
        if "hidden" not in batch:
            self._draw(batch, VALIDATION_STEP, batch["row"].cpu().numpy())
        total, denominators = self._error(batch)
        n_hidden, one = denominators["mean"](), torch.ones((), device=total.device)
        count = {"sum": one, "mean": n_hidden, "batch_mean": one * len(batch["x"])}[self.reduction]
        return {"loss": (total, count), "masked_mse": (total, n_hidden)}

    @staticmethod
    def summarize(totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """The loss (with ``sum``: the mean over batches) and the mean squared error per hidden value."""
        return {name: value / weight if weight else float("nan") for name, (value, weight) in totals.items()}

    def _draw(self, batch: Batch, step: int, rows: np.ndarray) -> None:
        if isinstance(self.model, ChemoMAE):
            hidden = hidden_blocks(self.seed, step, rows, self.model.n_blocks, self.model.n_mask)
            batch["hidden"] = torch.from_numpy(hidden).to(batch["x"].device)

    def _error(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        x, hidden = batch["x"], batch.get("hidden")
        x_recon, _, visible = (
            self.model.from_hidden(x, hidden)
            if hidden is not None and isinstance(self.model, ChemoMAE)
            else self.model(x)
        )
        return error_sums(x_recon, x, ~visible)


class SpectraLoader:
    """A loader of spectra, or of ``(x, meta)``, as the training loop wants it: dicts with ``x`` and ``row``.

    Everything else (sampler, generator, ``set_epoch``) is the wrapped loader's, so that a resume finds its place.

    Raises:
        ConfigError: the loader has no length.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if not isinstance(loader, Sized):
            raise ConfigError(
                "a loader with a length (a DataLoader, a list of batches)",
                got=type(loader).__name__,
                where="Trainer",
                repair="list(loader), if it fits into memory",
            )
        self.wrapped = loader

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # not there yet, while being copied
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __len__(self) -> int:
        return len(self.wrapped)

    def __iter__(self) -> Iterator[Batch]:
        first = 0
        for item in self.wrapped:
            x = item[0] if isinstance(item, tuple | list) else item
            if not isinstance(x, Tensor) or x.ndim != 2:
                got = f"{type(x).__name__} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise DataError("batches of spectra (B, L), or tuples that begin with one", got=got, where="Trainer")
            yield {"x": x.float(), "row": torch.arange(first, first + len(x))}
            first += len(x)
