"""What the training loop asks of a thing that can be trained.

An objective is an ``nn.Module`` that holds the model and turns a batch into a loss; data-parallel wrappers and
``torch.compile`` wrap the objective, not the model. Losses and statistics are *shares of the optimizer step*:
summed over the micro-batches and the ranks of one step they are the step's loss, whatever the split was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = dict[str, Any]


class Headed(Protocol):
    """A model whose last hidden states and output head can be had apart; its logits are ``hidden @ head_weight.T``."""

    @property
    def head_weight(self) -> Tensor:
        """Weight of the output head, ``(V, D)``."""
        ...

    def hidden(self, tokens: Tensor, types: Tensor, attn_mask: Tensor, **told: Any) -> Tensor:
        """Last hidden states ``(B, L, D)``."""
        ...


def is_headed(model: object) -> TypeGuard[Headed]:
    """Whether a model has ``hidden()`` and ``head_weight`` (which may be computed: ask once, not in every step)."""
    return hasattr(model, "hidden") and hasattr(model, "head_weight")


@runtime_checkable
class Objective(Protocol):
    """Implemented by every trainable of this program (all of them also are ``nn.Module``)."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Add what depends on the whole step (counts, sampled positions) to its micro-batches, on the CPU."""
        ...

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's loss, and of its statistics, in one micro-batch; all 0-dimensional tensors."""
        ...

    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and counts of the validation metrics, additive over batches."""
        ...

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Validation metrics from the totals over the whole split."""
        ...
