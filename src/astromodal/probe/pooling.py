"""Attention pooling of hidden states: the average that a fitted probe reads, kept for objects that it has never seen.

A probe's query weighs the tokens of an object by ``a_qt = softmax_t(u_q . (h_t - mean) / sqrt(D))``. What is pooled are
the states as they are, ``sum_t a_qt h_t``, query beside query, so that the probe's prediction is linear in it, as that
of the linear probe is in the mean of the states. With u = 0 it is that mean.

A file of fitted attention holds arrays and one JSON text; reading it executes nothing.

Shapes: m objects of a batch, P tokens, D width, Q queries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..errors import ArtifactError
from ..files.npz import load_npz, save_npz

FILE = "attention.npz"
FORMAT = 1


def attention_shares(scores: Tensor, lengths: Tensor) -> Tensor:
    """Softmax over the first ``lengths (m,)`` tokens of scores ``(m, P, Q)``; what is behind gets 0."""
    real = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
    return scores.masked_fill(~real[:, :, None], -torch.inf).softmax(1)


@dataclass(frozen=True)
class AttentionPooling:
    """How the tokens of an object are weighed; float32."""

    mean: np.ndarray  # (D,) of the states that it was fitted on
    directions: np.ndarray  # (D, Q) u / sqrt(D), in the space of the states

    @property
    def n_queries(self) -> int:
        return self.directions.shape[1]

    @property
    def is_mean(self) -> bool:
        """All tokens weigh the same."""
        return not self.directions.any()

    def __call__(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Pooled ``(m, Q * D)``, query by query; of states ``(m, P, D)`` the first ``lengths (m,)`` are real."""
        mean, directions = (torch.from_numpy(array).to(hidden.device) for array in (self.mean, self.directions))
        shares = attention_shares((hidden - mean) @ directions, lengths)
        return torch.einsum("mpq,mpd->mqd", shares, hidden).flatten(1)


@dataclass(frozen=True)
class FittedAttention:
    """Attention fitted for labels on the states of a model that was shown none of them."""

    model: str  # fingerprint of the weights
    given: tuple[str, ...] | None  # names as they were asked for; None: everything but the labels
    labels: Mapping[str, AttentionPooling]

    def columns(self) -> dict[str, str]:
        """Name of each label's column among the embeddings."""
        alone = len(self.labels) == 1
        return {label: "embedding_attention" if alone else f"embedding_attention_{label}" for label in self.labels}

    def save(self, path: str | Path) -> None:
        """Write a file, atomically."""
        meaning = {
            "format": FORMAT,
            "model": self.model,
            "labels": list(self.labels),
            "given": None if self.given is None else list(self.given),
        }
        arrays = {"meaning": np.array(json.dumps(meaning))}
        for number, pooling in enumerate(self.labels.values()):
            arrays |= {f"mean_{number}": pooling.mean, f"directions_{number}": pooling.directions}
        save_npz(path, arrays)

    @classmethod
    def load(cls, path: str | Path, model: str | None = None) -> Self:
        """Read a file.

        Args:
            model: fingerprint of the weights that it has to belong to.

        Raises:
            ArtifactMissingError, UnsafeFileError: see :func:`~astromodal.files.npz.load_npz`.
            ArtifactError: the file is damaged, or belongs to another model.
        """
        arrays, again = load_npz(path), "fit it again with --label"
        try:
            meaning = json.loads(str(arrays["meaning"]))
            if meaning["format"] != FORMAT:
                raise ArtifactError(f"format {FORMAT}", got=meaning["format"], where=path, repair=again)
            labels = {
                label: AttentionPooling(arrays[f"mean_{number}"], arrays[f"directions_{number}"])
                for number, label in enumerate(meaning["labels"])
            }
            given = None if meaning["given"] is None else tuple(meaning["given"])
            found = cls(meaning["model"], given, labels)
            whole = bool(labels) and all(p.mean.shape == p.directions.shape[:1] for p in labels.values())
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ArtifactError("fitted attention", got=repr(error), where=path, repair=again) from error
        if not whole:
            raise ArtifactError(
                "a mean and directions of one width for each label", got="others", where=path, repair=again
            )
        if model is not None and found.model != model:
            raise ArtifactError(
                f"attention fitted on the model {model}", got=f"one of {found.model}", where=path, repair=again
            )
        return found
