"""Residual k-means: each stage is a codebook over what the stages before it left over.

A vector is the sum of one entry per stage, so S codebooks of C codes tell C^S vectors apart at the cost of S C entries
(multi-stage vector quantization, Juang & Gray 1982; residual quantization of neural codecs, Zeghidour et al. 2021,
SoundStream). Encoding is greedy: the nearest entry of stage 0, then the nearest entry to the residual, and so on. The
stages are ordered from coarse to fine: a prefix of the codes is a coarser code.

Shape legend: n rows, D dimensions, S stages, C codes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..config.schema import KMeansConfig, ResidualKMeansConfig
from ..errors import ArtifactError, ConfigError
from ..vocabulary.codebook import Codebook
from .base import Learned, Quantizer, checked, checked_weights, of_numbers
from .kmeans import KMeans


class ResidualKMeans(Quantizer):
    """``config.n_stages`` k-means codebooks of at most ``config.n_codes`` codes each.

    Learned: ``stages_`` (fitted :class:`KMeans`) and ``distortion_`` (S,): mean squared error per (weighted) training
    row after each stage.
    """

    name = "residual_kmeans"
    distortion_ = Learned[np.ndarray]()

    def __init__(self, config: ResidualKMeansConfig | None = None, seed: int = 0) -> None:
        self.config = ResidualKMeansConfig() if config is None else config
        if self.config.n_stages < 1:
            raise ConfigError("n_stages of 1 or more", got=self.config.n_stages, where="residual_kmeans")
        self.seed = seed
        self.stages_: tuple[KMeans, ...] = ()

    def fit(self, X: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Learn stage after stage from ``X`` (n, D); stage s has the seed ``seed + s``."""
        residual = checked(X, "ResidualKMeans.fit")
        w = checked_weights(weights, residual.shape, "ResidualKMeans.fit")
        each = w if w.ndim == 2 else None
        settings = KMeansConfig(
            n_codes=self.config.n_codes,
            max_fit_rows=self.config.max_fit_rows,
            max_iter=self.config.max_iter,
            tol=self.config.tol,
        )
        stages, distortion = [], []
        for s in range(self.config.n_stages):
            stage = KMeans(settings, self.seed + s).fit(residual, w)
            residual = residual - stage.decode(stage.encode(residual, each))
            errors = np.square(residual, dtype=np.float64)
            weighted = np.einsum("nd,nd->", errors, each) if each is not None else w @ errors.sum(1)
            distortion.append(float(weighted / w.sum(dtype=np.float64) * (residual.shape[1] if w.ndim == 2 else 1)))
            stages.append(stage)
        self.stages_, self.distortion_ = tuple(stages), np.array(distortion)
        return self

    def encode(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Codes (n, S) int64, stage by stage; (n,) with one stage."""
        if not self.stages_:
            raise self._not_fitted("ResidualKMeans")
        residual = checked(X, "ResidualKMeans.encode", self.n_dims)
        each = of_numbers(weights, residual.shape, "ResidualKMeans.encode")
        codes = np.empty((len(residual), len(self.stages_)), dtype=np.int64)
        for s, stage in enumerate(self.stages_):
            codes[:, s] = stage.encode(residual, each)
            if s + 1 < len(self.stages_):
                residual = residual - stage.decode(codes[:, s])
        return codes[:, 0] if len(self.stages_) == 1 else codes

    def fit_figures(self) -> dict[str, Any]:
        """``fit_distortion``: mean squared error of the training rows after each stage."""
        return {"fit_distortion": [float(error) for error in self.distortion_]}

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        if not self.stages_:
            raise self._not_fitted("ResidualKMeans")
        return tuple(stage.codebook for stage in self.stages_)

    def state(self) -> dict[str, np.ndarray]:
        """``centroids_<s>`` (C, D) and ``counts_<s>`` (C,) of each stage s, and ``distortion`` (S,)."""
        if not self.stages_:
            raise self._not_fitted("ResidualKMeans")
        state = {f"{key}_{s}": array for s, stage in enumerate(self.stages_) for key, array in stage.state().items()}
        return {**state, "distortion": self.distortion_}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> Self:
        if "distortion" not in state or not len(state["distortion"]):
            raise ArtifactError("the distortion of each stage", got="none", where="residual_kmeans")
        distortion = np.asarray(state["distortion"], np.float64)
        stages = []
        for s in range(len(distortion)):
            arrays = {key: state[f"{key}_{s}"] for key in ("centroids", "counts") if f"{key}_{s}" in state}
            stages.append(KMeans.from_state(arrays))
        widths = {stage.n_dims for stage in stages}
        if len(widths) != 1:
            raise ArtifactError("stages of one dimension", got=sorted(widths), where="residual_kmeans")
        sizes = [stage.n_codes for stage in stages]
        quantizer = cls(ResidualKMeansConfig(n_stages=len(stages), n_codes=max(sizes)))
        quantizer.stages_, quantizer.distortion_ = tuple(stages), distortion
        return quantizer
