"""Scalars shown as they could have been observed, too: in every epoch another value within the error.

A small survey is seen many times, and learned by heart digit by digit. With ``sequence.redraw`` the model is shown, in
place of the bin of an observed value x with standard error e, that of x + r e z, with z drawn anew from a normal
distribution for every object, column and epoch: noise on the inputs is a penalty on what changes within the noise
(Bishop 1995, "Training with noise is equivalent to Tikhonov regularization", doi:10.1162/neco.1995.7.1.108). Only what
is *shown* is redrawn. What is to be predicted stays as observed: redrawn targets would be predicted wider than they
are. Values without a known error, non-detections, spectra and cutouts are shown as they are (the code of a patch is the
mean of many patches; its ``sigma`` is an upper bound of what noise does to it, so a draw within it would be too wild).

The draws are a function of (seed, epoch, object, column): a run that is resumed sees the same ones.

Shapes: B objects, L positions, c columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..data.scalars import transform
from ..machine.random import keyed_uniform
from ..vocabulary.vocab import VocabSpec

if TYPE_CHECKING:
    from ..tokenizers.scalar import ScalarTokenizer

_KEY = 0x4ED4A


class Redraw:
    """Redraws scalar tokens of batches.

    Args:
        scalar: the fitted scalar tokenizer.
        amount: r, standard errors of the observation.
    """

    def __init__(self, scalar: ScalarTokenizer, vocab: VocabSpec, amount: float, seed: int) -> None:
        self.binners, self.configs = list(scalar.binners), [scalar.configs[name] for name in scalar.columns]
        self.scale = np.asarray(scalar.codebook.scale, np.float64)
        self.start, self.first_type, self.amount, self.seed = vocab.base_scalar, vocab.first_column_type, amount, seed

    def __call__(
        self,
        tokens: np.ndarray,
        types: np.ndarray,
        sigma: np.ndarray,
        values: np.ndarray,
        object_index: np.ndarray,
        epoch: int,
    ) -> np.ndarray:
        """Tokens ``(B, L)`` to be shown.

        Args:
            sigma: errors of the tokens in units of their codebooks ``(B, L)``.
            values: physical values ``(B, c)``.
            object_index: numbers of the objects ``(B,)``.
        """
        shown = tokens.copy()
        column = types - self.first_type
        row, place = np.nonzero((sigma > 0) & (column >= 0) & (tokens >= self.start))
        j = column[row, place]
        normal = self._normal(epoch, object_index[row], j)
        for k in np.unique(j):
            mine = j == k
            at = row[mine], place[mine]
            x = transform(values[row[mine], k].astype(np.float64), self.configs[k])
            x = x + self.amount * self.scale[k] * sigma[at].astype(np.float64) * normal[mine]
            shown[at] = self.start + self.binners[k].encode(x.astype(np.float32))
        return shown

    def _normal(self, epoch: int, objects: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Box & Muller (1958) on two uniform numbers of each object and column."""
        first, second = (keyed_uniform(self.seed ^ _KEY, epoch, objects, 2 * columns + i) for i in range(2))
        return np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)
