"""Spectra and cutouts from a model: drawn token by token, decoded, and summed up over the draws.

Each draw of an object is a joint one: a token is drawn given the tokens drawn before it. A spectrum's scale is what is
given of it, else it is drawn first, so that its uncertainty is in that of the flux. Draws are a function of (seed,
draw, number of draws, object id, place): neither the batch nor the order of objects changes them.

The mean costs no more draws than it has to. Where the flux is linear in the codebook's entries (patches and k-means), a
draw's part in it is the flux of the *expected* entries, each under the distribution that its token is drawn from: the
same mean, less scatter (Rao-Blackwell; Gelfand & Smith 1990, section 2.4). The scales of an object's draws are one each
from equally likely ranges (stratified sampling). The standard deviation is that of the drawn spectra.

Shapes: m objects, S draws per object, L tokens of a part, X numbers of a decoded object, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..machine.random import keyed_uniform
from ..models.decoding import extend
from ..sequences.layout import Segment
from ..tokenizers.fitted import needed
from .engine import Engine
from .posterior import ColumnBins
from .prefixes import CELLS, Slots
from .questions import Question

if TYPE_CHECKING:
    from ..tokenizers import TokenizerSet

_PLACES = 1 << 32  # keys of one type's places
_STRATA = 1 << 31  # key of an object's first stratum, apart from those of its draws


@dataclass(frozen=True)
class DrawSettings:
    """How tokens are drawn; see ``EvaluateConfig``."""

    n_samples: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Drawn:
    """Mean and standard deviation over the draws ``(m, X)`` float64, in physical units."""

    mean: np.ndarray
    std: np.ndarray  # of the population the draws are from (n - 1); NaN for a single draw
    scale_predicted: np.ndarray  # (m,) bool: times a drawn scale, not a given one


def drawn_from(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """The distributions ``(R, V)`` that codes are drawn from, float64 where the device has it.

    Args:
        logits: ``(R, V)``.
        top_p: of the codes in the order of their probability, the first that together reach it are drawn from
            (Holtzman et al. 2020, arXiv:1904.09751); at least the likeliest.
    """
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    p = (logits.to(dtype) / temperature).softmax(-1)
    if top_p < 1:
        ordered, codes = p.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.where(ordered.cumsum(-1) - ordered < top_p, 0.0)
        p = torch.zeros_like(p).scatter(-1, codes, ordered / ordered.sum(-1, keepdim=True))
    return p


def invert(p: Tensor, uniform: Tensor) -> Tensor:
    """The code ``(R,)`` at which the distribution function of each row of ``p (R, V)`` passes ``uniform (R,)``."""
    below = p.cumsum(-1)
    code = (below <= uniform.to(p.dtype)[:, None] * below[:, -1:]).sum(-1)
    return code.clamp(max=p.shape[-1] - 1)


def stratified(uniform: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Uniform numbers ``(m, S)`` of which each row has one in every S-th of [0, 1), beginning where ``first (m,)`` is.

    >>> stratified(np.array([[0.0, 0.5, 0.5]]), np.array([0.4])).round(3).tolist()
    [[0.333, 0.833, 0.167]]
    """
    n = uniform.shape[1]
    stratum = (np.floor(first * n).astype(np.int64)[:, None] + np.arange(n)) % n
    return (stratum + uniform) / n


class Drawer:
    """Answers questions about spectra and cutouts.

    Args:
        tokenizers: the model's ``TokenizerSet``.
        bins: of the scalar columns, for drawn scales; None without scalars.
    """

    def __init__(
        self, engine: Engine, tokenizers: TokenizerSet, bins: ColumnBins | None, settings: DrawSettings
    ) -> None:
        self.engine, self.tokenizers, self.bins, self.settings = engine, tokenizers, bins, settings
        self.n_codes = dict(engine.n_bins)
        self.entries: dict[str, Tensor] = {}  # of the stages of spectra whose flux is linear in them
        if tokenizers.spectrum is not None:
            books, linear = tokenizers.spectrum.codebooks(), tokenizers.spectrum.linear_parts()
            self.n_codes |= {part: len(book.entries) for part, book in books.items()}
            self.entries = {part: torch.as_tensor(books[part].entries, device=engine.device) for part in linear}
        if tokenizers.image is not None:
            self.n_codes |= {part: len(book.entries) for part, book in tokenizers.image.codebooks().items()}

    def size(self, question: Question) -> int:
        """Numbers of a decoded object, X."""
        if question.modality == "image":
            return int(np.prod(needed(self.tokenizers.image, "image").fitted().array_shape))
        return int(needed(self.tokenizers.spectrum, "spectrum").codecs[question.name].n_pixels)

    @torch.inference_mode()
    def draw(
        self, slots: Slots, rows: np.ndarray, question: Question, hashes: np.ndarray, scales: np.ndarray | None = None
    ) -> Drawn:
        """Draw, decode and sum up.

        Args:
            rows: of the window, ``(m,)``.
            hashes: of the objects' ids ``(m,)`` uint64.
            scales: observed scales of the group's spectra ``(m,)``, used where the scale is given.
        """
        size = self.size(question)
        mean, std = (np.full((len(rows), size), np.nan) for _ in range(2))
        drawn = Drawn(mean, std, np.zeros(len(rows), bool))
        kept = slots.kept(question)[rows]
        scale = question.scale
        given = np.ones(len(rows), bool)
        if scale is not None:
            given = kept[:, slots.part_number(scale.name)] == CELLS
            drawn.scale_predicted = ~given
        lengths, at_once = slots.lengths(kept), max(self.engine.batch_size // self.settings.n_samples, 1)
        for with_scale in (True, False):
            mine = np.flatnonzero(given == with_scale)
            parts = question.parts if with_scale or scale is None else (scale, *question.parts)
            order = mine[np.argsort(lengths[mine], kind="stable")]
            for start in range(0, len(order), at_once):
                batch = order[start : start + at_once]
                codes, expected = self._codes(slots, rows[batch], kept[batch], parts, hashes[batch])
                factor = scales[batch, None] if with_scale and scale is not None and scales is not None else None
                values = self._decode(question, codes, factor)  # (m, S, X)
                means = self._flux(question, expected, codes, factor) if expected else values
                drawn.mean[batch] = means.mean(1, dtype=np.float64)
                if self.settings.n_samples > 1:  # float64: the square of 1e-20 is 0 in float32
                    drawn.std[batch] = values.std(1, ddof=1, dtype=np.float64)
        return drawn

    def _codes(
        self, slots: Slots, rows: np.ndarray, kept: np.ndarray, parts: tuple[Segment, ...], hashes: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Drawn local codes of each part ``(m, S, L)``, and the expected entries ``(m, S, L, D)`` of what is linear."""
        engine, settings = self.engine, self.settings
        steps = [(part, place) for part in parts for place in range(part.length)]
        hidden, cache, _ = engine.prefix(slots, rows, kept, steps[0][0].type)
        state = hidden[torch.arange(len(rows), device=hidden.device), cache.lengths - 1]
        state = state.repeat_interleave(settings.n_samples, 0)
        cache = cache.repeat(settings.n_samples, cache.longest + len(steps))
        places = np.array([part.type * _PLACES + place for part, place in steps])
        uniform = keyed_uniform(settings.seed, np.arange(settings.n_samples)[:, None], hashes[:, None, None], places)
        if len(parts) > 1 and parts[0].modality == "scalar":
            uniform[..., 0] = stratified(uniform[..., 0], keyed_uniform(settings.seed, _STRATA, hashes, places[0]))
        draws = torch.from_numpy(uniform.reshape(len(state), len(steps))).to(
            torch.float32 if hidden.device.type == "mps" else torch.float64
        )
        draws, found = draws.to(hidden.device), []
        expected: dict[str, list[Tensor]] = {part.name: [] for part in parts}
        for t, (part, _) in enumerate(steps):
            weight = engine.model.head_weight[part.base : part.base + self.n_codes[part.name]]
            dtype = torch.float64 if state.dtype is torch.float64 else torch.float32
            p = drawn_from(state.to(dtype) @ weight.to(dtype).T, settings.temperature, settings.top_p)
            code = invert(p, draws[:, t])
            found.append(code)
            if part.name in self.entries:
                expected[part.name].append(p.to(dtype) @ self.entries[part.name].to(dtype))
            if t + 1 < len(steps):
                types = (torch.full_like(code, kind)[:, None] for kind in (part.type, steps[t + 1][0].type))
                with engine.precision.autocast():
                    state = extend(engine.model, cache, (code + part.base)[:, None], *types)[:, 0]
        shape = len(rows), settings.n_samples
        codes = torch.stack(found, 1).cpu().numpy().reshape(*shape, len(steps))
        ends = np.cumsum([part.length for part in parts])
        means = {name: torch.stack(own, 1).cpu().numpy() for name, own in expected.items() if own}
        return (
            {part.name: codes[..., end - part.length : end] for part, end in zip(parts, ends, strict=True)},
            {name: mean.reshape(*shape, *mean.shape[1:]) for name, mean in means.items()},
        )

    def _decode(self, question: Question, codes: dict[str, np.ndarray], factor: np.ndarray | None) -> np.ndarray:
        """Physical values ``(m, S, X)`` of drawn codes; ``factor (m, 1)`` float64 is the given scale, if any."""
        own = [codes[part.name] for part in question.parts]
        m, n_draws = own[0].shape[:2]
        if question.modality == "image":
            image = needed(self.tokenizers.image, "image")
            flux = image.decode_parts([part.reshape(m * n_draws, -1) for part in own]).flux
            return flux.reshape(m, n_draws, -1)
        tokens = own[0] if len(own) == 1 else np.stack(own, axis=-1)
        spectrum = needed(self.tokenizers.spectrum, "spectrum")
        values = spectrum.decode_normalized(question.name, tokens.reshape(-1, *tokens.shape[2:]))
        return self._scaled(question, values.reshape(m, n_draws, -1), codes, factor)

    def _flux(
        self,
        question: Question,
        expected: dict[str, np.ndarray],
        codes: dict[str, np.ndarray],
        factor: np.ndarray | None,
    ) -> np.ndarray:
        """Physical values ``(m, S, X)`` of the expected entries of all stages."""
        entries = reduce(np.add, (expected[part.name] for part in question.parts))
        m, n_draws = entries.shape[:2]
        spectrum = needed(self.tokenizers.spectrum, "spectrum")
        values = spectrum.decode_features(question.name, entries.reshape(-1, *entries.shape[2:]))
        return self._scaled(question, values.reshape(m, n_draws, -1), codes, factor)

    def _scaled(
        self, question: Question, values: np.ndarray, codes: dict[str, np.ndarray], factor: np.ndarray | None
    ) -> np.ndarray:
        """Values ``(m, S, X)`` in units of a spectrum's scale, times what is given or drawn of it."""
        if question.scale is not None and factor is None:
            drawn = codes[question.scale.name][..., 0]
            bins = needed(self.bins, "scalar")
            factor = bins.centers[bins.column(question.scale.name)][drawn]
        return values if factor is None else values * np.asarray(factor, np.float64)[..., None]
