"""The forms of ``forms.py`` with their gradients in closed form, for the fused loss.

Every form takes log-probabilities ``(R, C)`` over a block, -inf at bins that a row's column does not have, and gives
values ``(R,)`` and their gradient at the logits ``(R, C)``. What depends on the codebook alone (distances, gaps
between bins, targets) is computed once, by :func:`constants`. The default, ``expectation``, is not here: it has its
own path in ``chunks.py``.

A value that depends on the logits through p alone, with slope g_j = dS/dp_j, has the gradient p_j (g_j - sum_i p_i
g_i); a cross-entropy to targets q has p_j - q_j.

Shapes: R rows of a chunk, C entries of a block, D dimensions, S columns (1 for vectors), M neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...config.families import FORMS
from ...config.schema import LossForm, LossFormConfig
from ..forms import distances, error_width, gaussian_targets, neighbours, widened


def form_of(options: LossFormConfig, modality: str) -> LossForm:
    """The form as it is computed: the energy score of scalars is the CRPS, which costs C instead of C^2."""
    return LossForm.crps if options.form == LossForm.energy and modality == "scalar" else options.form


def constants(form: LossForm, options: LossFormConfig, entries: Tensor, n_bins: Tensor | None) -> list[Tensor]:
    """What ``form`` reads of a codebook, ``n_constants(form)`` tensors.

    Args:
        entries: ``(C, D)``; for scalars ``(S, C)``, with ``n_bins`` ``(S,)``.

    Returns:
        energy: distances ``(C, C)``. crps: gap above each bin ``(S, C)``, 0 from the last on. hl_gauss: upper edge of
        each bin, inf from the last on, and its centre, both :func:`in_two_parts` ``(2, S, C)``, and sigma of a target
        in it, ``(S, C)``. neighbour_ce: codes, int64, and -d^2 / 2, -inf for padding, both ``(S, C, M)``, and tau,
        ``(S, C)``.
    """
    if form == LossForm.energy:
        return [distances(entries)]
    if form == LossForm.crps and n_bins is not None:  # of vectors there is none
        return [gaps(entries, n_bins)]
    rows = [entries] if n_bins is None else [row[:n, None] for row, n in zip(entries, n_bins.tolist(), strict=True)]
    if form == LossForm.hl_gauss:
        own = [gaussian_targets(row[:, 0], options.sigma_bins) for row in rows]
        edges, sigma = entries.new_full(entries.shape, torch.inf), torch.ones_like(entries)
        for index, (own_edges, own_sigma) in enumerate(own):
            edges[index, : len(own_edges)], sigma[index, : len(own_sigma)] = own_edges, own_sigma
        return [in_two_parts(edges), in_two_parts(entries), sigma]
    if form == LossForm.neighbour_ce:
        found = [neighbours(row, options.n_neighbours, options.temperature) for row in rows]
        shape = (len(rows), max(len(row) for row in rows), max(near.shape[1] for near, _, _ in found))
        codes, exponents = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -torch.inf, dtype=torch.float64)
        width = torch.ones(shape[:2], dtype=torch.float64)
        for index, (near, far, tau) in enumerate(found):
            here = (index, slice(near.shape[0]), slice(near.shape[1]))
            codes[here], exponents[here], width[index] = near, -far.square() / 2, tau
        return [codes, exponents, width]
    return []


def in_two_parts(table: Tensor) -> Tensor:
    """Values as float32 would round them and what that leaves out, ``(2, S, C)``.

    Edges that lie within a narrow bin's width of each other differ by few units in the last place of float32; the
    differences of both parts, added, are good to float32's relative precision.
    """
    rounded = table.float().to(table.dtype)
    return torch.stack([rounded, torch.where(rounded.isinf(), 0.0, table - rounded)])


def gaps(centers: Tensor, n_bins: Tensor) -> Tensor:
    """Distance from each bin to the next, ``(S, C)``, 0 from a column's last bin on."""
    above = centers.diff(dim=1, append=centers[:, -1:])
    return above.masked_fill(torch.arange(1, centers.shape[1] + 1, device=above.device) >= n_bins[:, None], 0.0)


@dataclass(frozen=True)
class Rows:
    """The targets of some rows, and their codebook."""

    codes: Tensor  # (R,)
    entries: Tensor  # (C, D); for scalars (S, C)
    columns: Tensor | None  # (R,), for scalars: the row of ``entries`` and of the constants
    constants: list[Tensor]
    beta: float = 0.0  # of expectation_spread
    sigma: Tensor | None = None  # (R,): standard errors that widen the targets

    def of_column(self, table: Tensor) -> Tensor:
        """Each row's column of a table ``(S, C)``: ``(R, C)``, or ``(1, C)`` where there is one column only."""
        return table if self.columns is None or len(table) == 1 else table.index_select(0, self.columns)

    def at_code(self, table: Tensor) -> Tensor:
        """Values at the true codes, ``(R, ...)``, of a table ``(S, C, ...)``."""
        return table[0 if len(table) == 1 else self.columns, self.codes]


@cache
def _fused(form: str, how: str) -> Any:
    return FORMS[form].fact(how)


def n_constants(form: LossForm) -> int:
    """How many tensors a form reads of a codebook."""
    return int(FORMS[form].fact("n_constants", 0))


def value_and_grad(form: LossForm, log_p: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Values ``(R,)`` of a form and their gradient at the logits, ``(R, C)``; ``log_p`` is left as it is."""
    if gradient := _fused(form.value, "gradient"):
        return gradient(log_p, rows)
    p = log_p.exp()
    value, slope = _fused(form.value, "slope")(p, rows)
    mean = (p * slope).sum(1, keepdim=True)
    return value, (slope - mean).mul_(p)


def expectation_spread(p: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    beta = rows.beta
    if rows.columns is not None:
        centers = rows.of_column(rows.entries)
        mean = (p * centers).sum(1, keepdim=True)
        residual, square = mean - rows.at_code(rows.entries)[:, None], (centers - mean).square()
        variance = (p * square).sum(1)
        return residual[:, 0].square() + beta * variance, square.mul_(beta).add_(2.0 * residual * centers)
    mean, norms = p @ rows.entries, rows.entries.square().sum(1)
    residual = mean - rows.entries.index_select(0, rows.codes)
    variance = p @ norms - mean.square().sum(1)
    slope = (2.0 * (residual - beta * mean)) @ rows.entries.t()
    return residual.square().sum(1) + beta * variance, slope.add_(norms, alpha=beta)


def energy(p: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    far = rows.constants[0]
    true, own = far.index_select(0, rows.codes), p @ far
    return (p * (true - 0.5 * own)).sum(1), true - own


def crps(p: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    above = rows.of_column(rows.constants[0])
    excess = p.cumsum(1)
    excess -= (torch.arange(p.shape[1], device=p.device) >= rows.codes[:, None]).to(p.dtype)
    slope = excess * above
    value = (slope * excess).sum(1)
    slope = slope.mul_(-2.0)
    return value, slope.cumsum(1).sub_(slope)  # up to a constant, which softmax does not see


def wasserstein(p: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    slope = (rows.of_column(rows.entries) - rows.at_code(rows.entries)[:, None]).abs()
    return (p * slope).sum(1), slope


def hl_gauss(log_p: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    edges, centers, table = rows.constants
    sigma = rows.at_code(table)
    if rows.sigma is not None:
        sigma = torch.hypot(sigma, error_width(rows.sigma))
    above, left_out = (rows.of_column(e) - rows.at_code(c)[:, None] for e, c in zip(edges, centers, strict=True))
    targets = torch.special.ndtr((above + left_out) / sigma[:, None])
    targets[:, 1:] -= targets[:, :-1].clone()
    value = -torch.where(targets > 0, targets * log_p, 0.0).sum(1)  # 0 * -inf beyond a column's bins
    return value, log_p.exp().sub_(targets)


def neighbour_ce(log_p: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    near, exponents, tau = (rows.at_code(table) for table in rows.constants)
    n_dimensions = 1 if rows.columns is not None else rows.entries.shape[1]
    variance = tau.square() if rows.sigma is None else widened(tau, rows.sigma, n_dimensions)
    shares = torch.softmax(exponents / variance[:, None], dim=1)
    found = torch.where(shares > 0, log_p.gather(1, near), 0.0)  # padding of columns with few bins
    return -(shares * found).sum(1), log_p.exp().scatter_add_(1, near, -shares)
