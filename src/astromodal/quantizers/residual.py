"""Residual k-means: each stage is a codebook over what the stages before it left over.

A vector is the sum of one entry per stage, so S codebooks of C codes tell C^S vectors apart at the cost of S C entries
(multi-stage vector quantization, Juang & Gray 1982; residual quantization of neural codecs, Zeghidour et al. 2021,
SoundStream). Encoding is greedy: the nearest entry of stage 0, then the nearest entry to the residual, and so on; or,
with ``n_tried`` > 1, greedy from each of the nearest entries of stage 0, of which the best sum is taken. The stages are
ordered from coarse to fine: a prefix of the codes is a coarser code.

Shape legend: n rows, D dimensions, S stages, C codes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np

from ..config.checks.saved import check_count
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
        for name in ("n_stages", "n_tried"):
            if getattr(self.config, name) < 1:
                raise ConfigError(f"{name} of 1 or more", got=getattr(self.config, name), where=self.name)
        self.seed = seed
        self.stages_: tuple[KMeans, ...] = ()

    def fit(self, X: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Learn the stages from ``X`` (n, D); stage s has the seed ``seed + s``."""
        X = checked(X, "ResidualKMeans.fit")
        w = checked_weights(weights, X.shape, "ResidualKMeans.fit")
        each = w if w.ndim == 2 else None
        settings = KMeansConfig(
            n_codes=self.config.n_codes,
            max_fit_rows=self.config.max_fit_rows,
            max_iter=self.config.max_iter,
            tol=self.config.tol,
        )
        residual, codes = X, np.empty((len(X), self.config.n_stages), dtype=np.int64)
        for s in range(self.config.n_stages):
            stage = KMeans(settings, self.seed + s)
            stage.learn(residual, w)
            codes[:, s] = stage.encode(residual, each)
            residual = residual - stage.centroids_[codes[:, s]]
            self.stages_ = (*self.stages_[:s], stage)
        if self.config.n_tried > 1:
            codes = self._search(X, each)
        self._count(X, w, codes)
        return self

    def _count(self, X: np.ndarray, w: np.ndarray, codes: np.ndarray) -> None:
        """Set the errors after each stage, and how often each code is used by rows that count."""
        heavy, residual, distortion = w.any(1) if w.ndim == 2 else w > 0, X, []
        for stage, column in zip(self.stages_, codes.T, strict=True):
            residual = residual - stage.centroids_[column]
            squares = np.square(residual, dtype=np.float64)
            weighted = np.einsum("nd,nd->", squares, w) if w.ndim == 2 else w @ squares.sum(1)
            distortion.append(float(weighted / w.sum(dtype=np.float64) * (X.shape[1] if w.ndim == 2 else 1)))
            stage.counts_ = np.bincount(column[heavy], minlength=len(stage.centroids_)).astype(np.float64)
        self.distortion_ = np.array(distortion)

    def encode(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Codes (n, S) int64, stage by stage; (n,) with one stage."""
        if not self.stages_:
            raise self._not_fitted("ResidualKMeans")
        X = checked(X, "ResidualKMeans.encode", self.n_dims)
        codes = self._search(X, of_numbers(weights, X.shape, "ResidualKMeans.encode"))
        return codes[:, 0] if len(self.stages_) == 1 else codes

    def _search(self, X: np.ndarray, each: np.ndarray | None) -> np.ndarray:
        """Codes (n, S): the best of what follows from ``n_tried`` entries of the first stage."""
        if self.config.n_tried == 1 or len(self.stages_) == 1:
            return self._follow(X, each, self.stages_[0].encode(X, each))[0]
        if each is not None:
            each = np.where(each.any(1, keepdims=True), each, np.float32(1))  # errors of what weighs nothing count too
        first = self.stages_[0]._index.several(X, self.config.n_tried, each)
        codes, least = self._follow(X, each, first[:, 0])
        for column in first.T[1:]:
            others, errors = self._follow(X, each, column)
            better = errors < least
            codes[better], least[better] = others[better], errors[better]
        return codes

    def _follow(self, X: np.ndarray, each: np.ndarray | None, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n, S) whose first are given, and squared errors (n,) of their sums; the last stage's only, if one."""
        codes, errors = np.empty((len(X), len(self.stages_)), dtype=np.int64), np.zeros(len(X), np.float32)
        codes[:, 0], residual = first, X
        for s in range(1, len(self.stages_)):
            residual = residual - self.stages_[s - 1].centroids_[codes[:, s - 1]]
            codes[:, s], errors = self.stages_[s]._index.query(residual, each)
        return codes, errors

    def fit_figures(self) -> dict[str, Any]:
        """``fit_distortion``: mean squared error of the training rows after each stage."""
        return {"fit_distortion": [float(error) for error in self.distortion_]}

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        if not self.stages_:
            raise self._not_fitted("ResidualKMeans")
        return tuple(stage.codebook for stage in self.stages_)

    def state(self) -> dict[str, np.ndarray]:
        """``centroids_<s>`` (C, D) and ``counts_<s>`` (C,) of each stage s, ``distortion`` (S,), ``n_tried``."""
        if not self.stages_:
            raise self._not_fitted("ResidualKMeans")
        state = {f"{key}_{s}": array for s, stage in enumerate(self.stages_) for key, array in stage.state().items()}
        tried = {"n_tried": np.array(self.config.n_tried)} if self.config.n_tried > 1 else {}
        return {**state, "distortion": self.distortion_, **tried}

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
        config = ResidualKMeansConfig(n_stages=len(stages), n_codes=max(stage.n_codes for stage in stages))
        n_tried = check_count(int(state.get("n_tried", 1)), "n_tried", 1 << 16, cls.name)
        quantizer = cls(dataclasses.replace(config, n_tried=n_tried))
        quantizer.stages_, quantizer.distortion_ = tuple(stages), distortion
        return quantizer
