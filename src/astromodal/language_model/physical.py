"""Scalars predicted by the model, in physical units, against what was observed (not against the bin's centre).

The prediction of a column is its expectation in the column's transformed space, given what stands before it in the
sequence, brought back to physical units. An error against the token's own entry would reward coarse bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..loss.shifting import model_inputs, shift
from ..models.trainable import is_headed
from ..training.callbacks.hooks import Callback
from ..vocabulary.codebook import ScalarCodebook
from ..vocabulary.vocab import VocabSpec

if TYPE_CHECKING:
    from ..training.loop import TrainingLoop

Inverse = Callable[[np.ndarray], np.ndarray]


@dataclass
class ColumnErrors:
    """Running errors of one column; ``examples`` keeps the first values for the plot."""

    n: int = 0
    absolute: float = 0.0
    squared: float = 0.0  # in transformed space, over the training variance
    marginal_absolute: float = 0.0
    marginal_squared: float = 0.0
    true: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)
    kept: int = 0


class PhysicalValidation:
    """Evaluate a model's scalar predictions on a loader whose batches hold ``scalar_values (B, n_columns)``.

    Args:
        forward, inverse: for each column the map to the transformed space and back.
        max_examples: values kept per column for plots.
    """

    def __init__(
        self,
        vocab: VocabSpec,
        codebook: ScalarCodebook,
        forward: Mapping[str, Inverse],
        inverse: Mapping[str, Inverse],
        max_examples: int = 2000,
    ) -> None:
        self.vocab, self.codebook, self.max_examples = vocab, codebook, max_examples
        self.forward, self.inverse = forward, inverse
        self._mean, self._scale = codebook.mean, codebook.scale
        # without a unit float32 will do
        self._standardized = ((codebook.centers - self._mean[:, None]) / self._scale[:, None]).astype(np.float32)

    @torch.no_grad()
    def run(
        self, model: torch.nn.Module, loader: Iterable[dict], device: torch.device, *, next_types: bool = True
    ) -> dict[str, ColumnErrors]:
        """Errors of every column over the whole loader."""
        results = {column: ColumnErrors() for column in self.codebook.columns}
        was_training = model.training
        model.eval()
        for batch in loader:
            prediction, row, column = self._predict(model, batch, device, next_types)
            observed = batch["scalar_values"].numpy()[row, column]
            for j in np.unique(column):
                self._add(results[self.codebook.columns[j]], j, observed[column == j], prediction[column == j])
        model.train(was_training)
        return results

    def _predict(
        self, model: torch.nn.Module, batch: dict, device: torch.device, next_types: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Expected value, standardised, at each position whose target is a scalar bin: ``(K,)``, row, column."""
        block = self.vocab.block("scalar")
        part = shift(batch)
        targets = part["targets"]
        row, position = torch.nonzero((targets >= block.start) & (targets < block.stop), as_tuple=True)
        column = part["target_types"][row, position] - self.vocab.first_column_type
        if not len(row):
            return np.zeros(0), row.numpy(), column.numpy()
        # A causal model needs nothing behind the last scalar: images and spectra mostly stand there.
        stop = int(position.max()) + 1
        part = {name: x[:, :stop].to(device) if x.ndim > 1 else x.to(device) for name, x in part.items()}
        inputs, told = model_inputs(part, next_types, getattr(model, "reads_errors", False))
        if is_headed(model):
            hidden = model.hidden(*inputs, **told)[row.to(device), position.to(device)]
            logits = hidden.float() @ model.head_weight[block.start : block.stop].float().T
        else:
            logits = model(*inputs)[row.to(device), position.to(device), block.start : block.stop].float()
        expected = self._expectation(logits, column.to(device))
        return expected.double().cpu().numpy(), row.numpy(), column.numpy()

    def _expectation(self, logits: Tensor, column: Tensor) -> Tensor:
        centers = torch.as_tensor(self._standardized, device=logits.device)
        bins = torch.as_tensor(self.codebook.n_bins, device=logits.device)
        inside = torch.arange(logits.shape[1], device=logits.device)[None] < bins[column, None]
        probability = logits.masked_fill(~inside, float("-inf")).softmax(-1)
        return (probability * centers[column][:, : logits.shape[1]]).sum(-1)

    def _add(self, errors: ColumnErrors, j: int, observed: np.ndarray, expected: np.ndarray) -> None:
        name = self.codebook.columns[j]
        finite = np.isfinite(observed)
        mean, scale = self._mean[j], self._scale[j]
        observed, expected = observed[finite].astype(np.float64), mean + scale * expected[finite]
        transformed = self.forward[name](observed)
        predicted = self.inverse[name](expected)
        errors.n += len(observed)
        errors.absolute += float(np.abs(predicted - observed).sum())
        errors.squared += float((((expected - transformed) / scale) ** 2).sum())
        errors.marginal_absolute += float(np.abs(self.inverse[name](np.asarray(mean)) - observed).sum())
        errors.marginal_squared += float((((mean - transformed) / scale) ** 2).sum())
        room = max(self.max_examples - errors.kept, 0)
        errors.true.append(observed[:room])
        errors.predicted.append(predicted[:room])
        errors.kept += min(room, len(observed))

    @staticmethod
    def metrics(results: Mapping[str, ColumnErrors]) -> dict[str, float]:
        """``mae_<column>`` in the column's unit and ``observed_error_<column>`` over the variance."""
        metrics: dict[str, float] = {}
        for name, errors in results.items():
            if errors.n:
                metrics[f"mae_{name}"] = errors.absolute / errors.n
                metrics[f"observed_error_{name}"] = errors.squared / errors.n
        values = [v for k, v in metrics.items() if k.startswith("observed_error_")]
        return metrics | ({"observed_error_scalar": float(np.mean(values))} if values else {})


class PhysicalCallback(Callback):
    """Adds the metrics of :class:`PhysicalValidation` to every validation of a training loop.

    ``results`` holds the errors of the last validation, for plots.
    """

    def __init__(self, validation: PhysicalValidation, loader: Iterable[dict], *, next_types: bool) -> None:
        self.validation, self.loader, self.next_types = validation, loader, next_types
        self.results: dict[str, ColumnErrors] = {}

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float]:
        self.results = self.validation.run(loop.model, self.loader, loop.device, next_types=self.next_types)
        return self.validation.metrics(self.results)
