"""What the tokenizer of a modality from outside has beside what every :class:`~.base.Tokenizer` has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import DataConfig
    from ..data.datacube import Batch
    from ..data.findings import Findings
    from ..vocabulary.codebook import Codebook


class OutsideTokenizer(Protocol):
    """Codes of a fixed number per object, with one codebook; ``examples/light_curve`` is one."""

    @property
    def n_tokens(self) -> int:
        """Per object, L."""
        ...

    @property
    def codebook(self) -> Codebook:
        """Entries ``(C, D)``, and how often each was used."""
        ...

    def encode(
        self, batch: Batch, data: DataConfig, findings: Findings
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Codes ``(n, L)``, which objects have some ``(n,)`` bool, and errors ``(n, L)``, None for none."""
        ...
