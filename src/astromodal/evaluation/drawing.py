"""Spectra and cutouts from a model: drawn token by token, decoded, and summed up over the draws.

Each draw of an object is a joint one: a token is drawn given the tokens drawn before it. A spectrum's scale is what is
given of it, else it is drawn first, so that its uncertainty is in that of the flux. Draws are a function of (seed,
draw, object id, place): neither the batch nor the order of objects changes them.

Shapes: m objects, S draws per object, L tokens of a part, X numbers of a decoded object, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.random import keyed_uniform
from ..models.decoding import extend
from ..sequences.layout import Segment
from .engine import Engine
from .posterior import ColumnBins
from .prefixes import CELLS, Slots
from .questions import Question

_PLACES = 1 << 32  # keys of one type's places


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


def draw_codes(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """One code per row ``(R,)`` by inverting the distribution function at ``uniform (R,)``.

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
        p = torch.zeros_like(p).scatter(-1, codes, ordered)
    below = p.cumsum(-1)
    code = (below <= uniform.to(dtype)[:, None] * below[:, -1:]).sum(-1)
    return code.clamp(max=logits.shape[-1] - 1)


class Drawer:
    """Answers questions about spectra and cutouts.

    Args:
        tokenizers: the model's ``TokenizerSet``.
        bins: of the scalar columns, for drawn scales; None without scalars.
    """

    def __init__(self, engine: Engine, tokenizers: Any, bins: ColumnBins | None, settings: DrawSettings) -> None:
        self.engine, self.tokenizers, self.bins, self.settings = engine, tokenizers, bins, settings
        self.n_codes = dict(engine.n_bins)
        if tokenizers.spectrum is not None:
            self.n_codes |= {part: len(book.entries) for part, book in tokenizers.spectrum.codebooks().items()}
        if tokenizers.image is not None:
            self.n_codes["image"] = len(tokenizers.image.codebook.entries)

    def size(self, question: Question) -> int:
        """Numbers of a decoded object, X."""
        if question.modality == "image":
            return int(np.prod(self.tokenizers.image.fitted().array_shape))
        return int(self.tokenizers.spectrum.codecs[question.name].n_pixels)

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
        drawn = Drawn(*(np.full((len(rows), size), np.nan) for _ in range(2)), np.zeros(len(rows), bool))
        kept = slots.kept(question)[rows]
        scale = question.scale
        given = np.ones(len(rows), bool)
        if scale is not None:
            given = kept[:, slots.part_number(scale.name)] == CELLS
            drawn.scale_predicted = ~given
        lengths, at_once = slots.lengths(kept), max(self.engine.batch_size // self.settings.n_samples, 1)
        for with_scale in (True, False):
            mine = np.flatnonzero(given == with_scale)
            parts = question.parts if with_scale else (scale, *question.parts)
            order = mine[np.argsort(lengths[mine], kind="stable")]
            for start in range(0, len(order), at_once):
                batch = order[start : start + at_once]
                codes = self._codes(slots, rows[batch], kept[batch], parts, hashes[batch])
                factor = scales[batch, None] if with_scale and scale is not None else None
                values = self._decode(question, codes, factor)  # (m, S, X)
                drawn.mean[batch] = values.mean(1, dtype=np.float64)
                if self.settings.n_samples > 1:  # float64: the square of 1e-20 is 0 in float32
                    drawn.std[batch] = values.std(1, ddof=1, dtype=np.float64)
        return drawn

    def _codes(
        self, slots: Slots, rows: np.ndarray, kept: np.ndarray, parts: tuple[Segment, ...], hashes: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Drawn local codes of each part ``(m, S, L)``."""
        engine, settings = self.engine, self.settings
        steps = [(part, place) for part in parts for place in range(part.length)]
        hidden, cache, _ = engine.prefix(slots, rows, kept, steps[0][0].type)
        state = hidden[torch.arange(len(rows), device=hidden.device), cache.lengths - 1]
        state = state.repeat_interleave(settings.n_samples, 0)
        cache = cache.repeat(settings.n_samples, cache.longest + len(steps))
        places = np.array([part.type * _PLACES + place for part, place in steps])
        uniform = keyed_uniform(settings.seed, np.arange(settings.n_samples)[:, None], hashes[:, None, None], places)
        uniform = torch.from_numpy(uniform.reshape(len(state), len(steps))).to(torch.float32 if hidden.device.type ==
                                                                               "mps" else torch.float64)  # fmt: skip
        uniform, found = uniform.to(hidden.device), []
        for t, (part, _) in enumerate(steps):
            weight = engine.model.head_weight[part.base : part.base + self.n_codes[part.name]]
            dtype = torch.float64 if state.dtype is torch.float64 else torch.float32
            code = draw_codes(state.to(dtype) @ weight.to(dtype).T, uniform[:, t], settings.temperature, settings.top_p)
            found.append(code)
            if t + 1 < len(steps):
                types = (torch.full_like(code, kind)[:, None] for kind in (part.type, steps[t + 1][0].type))
                with engine.precision.autocast():
                    state = extend(engine.model, cache, (code + part.base)[:, None], *types)[:, 0]
        codes = torch.stack(found, 1).cpu().numpy().reshape(len(rows), settings.n_samples, len(steps))
        ends = np.cumsum([part.length for part in parts])
        return {part.name: codes[..., end - part.length : end] for part, end in zip(parts, ends, strict=True)}

    def _decode(self, question: Question, codes: dict[str, np.ndarray], factor: np.ndarray | None) -> np.ndarray:
        """Physical values ``(m, S, X)`` of drawn codes; ``factor (m, 1)`` float64 is the given scale, if any."""
        own = [codes[part.name] for part in question.parts]
        m, n_draws, length = own[0].shape
        if question.modality == "image":
            return self.tokenizers.image.decode(own[0].reshape(-1, length)).flux.reshape(m, n_draws, -1)
        tokens = own[0] if len(own) == 1 else np.stack(own, axis=-1)
        values = self.tokenizers.spectrum.decode_normalized(question.name, tokens.reshape(-1, *tokens.shape[2:]))
        values = values.reshape(m, n_draws, -1)
        if question.scale is not None and factor is None:
            drawn = codes[question.scale.name][..., 0]
            factor = self.bins.centers[self.bins.column(question.scale.name)][drawn]
        return values if factor is None else values * np.asarray(factor, np.float64)[..., None]
