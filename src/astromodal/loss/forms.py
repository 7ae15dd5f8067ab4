"""The forms that the reconstruction loss can take, each in its readable, differentiable version.

One contract: logits ``(K, C)`` over the entries of one block, the true codes ``(K,)`` and the entries ``(C, D)`` in
standardised units give one value per position, ``(K,)``. Scalars have D = 1 and entries in ascending order, and three
of the forms need that order. ``fused/forms.py`` has the same values with gradients in closed form; the tests hold
them equal, and fit every form to a known distribution.

With p the softmax of the logits, c an entry drawn from p, c' another, y the true entry, mu = E c:

==================  =====================================  ========  ==================================================
form                value                                  unit      minimiser of its expectation over y
==================  =====================================  ========  ==================================================
expectation         ``|mu - y|^2``                         variance  any p whose mean is E y: the spread is left free
expectation_spread  ``|mu - y|^2 + beta E|c - mu|^2``      variance  E y with the least spread: collapses to one code
energy              ``E|c - y| - E|c - c'| / 2``           sd        the distribution of y alone (strictly proper)
crps                the same for scalars                   sd        the distribution of y alone (strictly proper)
wasserstein         ``E|c - y|``                           sd        all mass on the median of y: collapses
hl_gauss            cross-entropy to a Gaussian around y   nats      the distribution of y, convolved with the Gaussian
neighbour_ce        cross-entropy to the codes near y      nats      the distribution of y, convolved with the kernel
==================  =====================================  ========  ==================================================

Where they fail. *Right mean from a wrong distribution*: ``expectation`` is 0 for it, no other form is. *Confidently
wrong*: every form that depends on p alone has a gradient proportional to p, which vanishes where p is 0 at the truth;
``hl_gauss`` and ``neighbour_ce`` keep one of order 1, as cross-entropy does. *Mass outside of the block*: no form sees
it; the cross-entropy over the whole vocabulary does.

Errors. With ``errors=width`` a target is as wide as the error of what was measured: both cross-entropies take a
``sigma (K,)``, the standard error in the unit of the entries, and add its variance to that of their targets.

Shapes: K positions, C entries of a block, D dimensions of an entry, M neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.families import FORMS
from ..config.schema import ErrorUse, LossForm, LossFormConfig
from ..errors import ConfigError

MAX_ENERGY_CODES = 2**14  # the distances of all pairs then take 1 GiB in float32
MAX_WIDTH = 1.0  # of a target, from errors: the population's own; a wider one would only fill the outermost bins


def expected_error(logits: Tensor, codes: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of the expected entry from the true one, and the expected entry.

    Args:
        logits: over the entries of one block, ``(K, C)``; codes: the true entries, ``(K,)``; entries: ``(C, D)``.

    Returns:
        errors ``(K,)`` and expectations ``(K, D)``.
    """
    entries = entries.to(logits)
    expected = torch.softmax(logits, dim=-1) @ entries
    return (expected - entries[codes]).square().sum(-1), expected


def distances(entries: Tensor) -> Tensor:
    """Euclidean distances of all pairs of entries ``(C, D)``: ``(C, C)``."""
    return torch.cdist(entries, entries, compute_mode="donot_use_mm_for_euclid_dist")


def expectation(logits: Tensor, codes: Tensor, entries: Tensor, options: LossFormConfig) -> Tensor:
    """``|mu - y|^2``, the default form.

    Minimiser: any distribution with the right mean. Zero for many wrong ones.
    """
    return expected_error(logits, codes, entries)[0]


def expectation_spread(logits: Tensor, codes: Tensor, entries: Tensor, options: LossFormConfig) -> Tensor:
    """``|mu - y|^2 + beta E|c - mu|^2``; with beta = 1 the expected squared distance ``E|c - y|^2``.

    The mean-variance loss (Pan, Han, Shan & Chen 2018, CVPR). Unique minimum where y is certain; under uncertainty
    improper: the prediction collapses to the code nearest to the mean (or to a few around it, for small beta).
    """
    error, mean = expected_error(logits, codes, entries)
    variance = torch.softmax(logits, dim=-1) @ entries.to(logits).square().sum(-1) - mean.square().sum(-1)
    return error + options.beta * variance


def energy(logits: Tensor, codes: Tensor, entries: Tensor, options: LossFormConfig) -> Tensor:
    """Energy score, ``E|c - y| - E|c - c'| / 2``, with Euclidean distances.

    Gneiting & Raftery 2007, JASA 102, 359, section 4.3 (beta = 1): strictly proper, the minimiser is the distribution
    of y. In one dimension it is the CRPS.
    """
    p, far = torch.softmax(logits, dim=-1), distances(entries.double()).to(logits)
    return (p * far[codes]).sum(-1) - 0.5 * ((p @ far) * p).sum(-1)


def crps(logits: Tensor, codes: Tensor, entries: Tensor, options: LossFormConfig) -> Tensor:
    """Continuous ranked probability score, the integral of (F(x) - 1[x >= y])^2, F the distribution function.

    F is constant between neighbouring entries, so the integral is an exact sum over the gaps. Matheson & Winkler
    1976, Management Science 22, 1087; Gneiting & Raftery 2007. Strictly proper: the minimiser is the distribution
    of y.
    """
    centers = entries[:, 0].to(logits)
    below = torch.softmax(logits, dim=-1).cumsum(-1)
    reached = (torch.arange(len(centers), device=codes.device) >= codes[:, None]).to(logits)
    return ((below - reached)[:, :-1].square() * centers.diff()).sum(-1)


def wasserstein(logits: Tensor, codes: Tensor, entries: Tensor, options: LossFormConfig) -> Tensor:
    """Wasserstein-1 distance to the point y, ``E|c - y|``.

    The number token loss (Zausinger et al. 2025, arXiv:2411.02083). Unique minimum where y is certain; under
    uncertainty improper: all mass goes to the median of y.
    """
    centers = entries[:, 0].to(logits)
    return (torch.softmax(logits, dim=-1) * (centers - centers[codes][:, None]).abs()).sum(-1)


def hl_gauss(
    logits: Tensor, codes: Tensor, entries: Tensor, options: LossFormConfig, sigma: Tensor | None = None
) -> Tensor:
    """Cross-entropy to a Gaussian around y, integrated over the bins.

    Imani & White 2018; Farebrother et al. 2024, arXiv:2403.03950, where sigma is 0.75 bin widths. Here bins differ in
    width: they meet halfway between centres, sigma is in widths of the true bin, and the outermost bins take the
    tails. Minimiser: the mean of these targets, the distribution of y widened by sigma. Never below their entropy.
    With errors, sigma^2 is that plus the variance of the error, taken as at most ``MAX_WIDTH``.
    """
    entries = entries.double()
    edges, width = gaussian_targets(entries[:, 0], options.sigma_bins)
    width = width[codes] if sigma is None else torch.hypot(width[codes], error_width(sigma.double()))
    below = torch.special.ndtr((edges - entries[codes]) / width[:, None])
    targets = below.diff(dim=1, prepend=torch.zeros_like(below[:, :1])).to(logits)
    return -(targets * torch.log_softmax(logits, dim=-1)).sum(-1)


def error_width(sigma: Tensor) -> Tensor:
    """What a standard error adds to the width of a target."""
    return sigma.clamp(max=MAX_WIDTH)


def gaussian_targets(centers: Tensor, sigma_bins: float) -> tuple[Tensor, Tensor]:
    """Upper edge of each bin (inf for the last), and sigma of a target in it, both ``(C,)``.

    >>> [t.tolist() for t in gaussian_targets(torch.tensor([0.0, 1.0, 3.0]), 0.5)]
    [[0.5, 2.0, inf], [0.5, 0.75, 1.0]]
    """
    if len(centers) == 1:
        return torch.full_like(centers, torch.inf), torch.full_like(centers, sigma_bins)
    middles = (centers[1:] + centers[:-1]) / 2
    first, last = 2 * (middles[0] - centers[0]), 2 * (centers[-1] - middles[-1])
    widths = torch.cat([first[None], middles.diff(), last[None]])
    edges = torch.cat([middles, torch.full_like(middles[:1], torch.inf)])
    return edges, (sigma_bins * widths).clamp(min=1e-6)  # equal centres make bins without width


def neighbour_ce(
    logits: Tensor, codes: Tensor, entries: Tensor, options: LossFormConfig, sigma: Tensor | None = None
) -> Tensor:
    """Cross-entropy to soft targets over the ``n_neighbours`` codes nearest to y, as exp(-d^2 / 2 tau^2).

    Label smoothing (Szegedy et al. 2016) by distance, as in soft neighbour targets for vector-quantised codes; tau is
    ``temperature`` times the codebook's median distance between nearest codes. Minimiser: the mean of these targets,
    the distribution of y widened by tau. Never below their entropy. With errors tau^2 grows by their variance per
    dimension, sigma^2 / D: the total that the kernel adds is then that of the error, as far as the M codes reach.
    """
    near, far, tau = (t.to(codes.device) for t in neighbours(entries, options.n_neighbours, options.temperature))
    variance = tau.square() if sigma is None else widened(tau, sigma.double(), entries.shape[1])[:, None]
    shares = torch.softmax(-far[codes].square() / (2 * variance), dim=1)
    return -(shares.to(logits) * torch.log_softmax(logits, dim=-1).gather(-1, near[codes])).sum(-1)


def widened(tau: Tensor, sigma: Tensor, n_dimensions: int) -> Tensor:
    """Variance per dimension of a neighbour target whose observation has the total standard error ``sigma``."""
    return tau.square() + error_width(sigma).square() / n_dimensions


def neighbour_targets(entries: Tensor, n_neighbours: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The nearest codes of each code, itself first, ``(C, M)``, and their shares of the target, ``(C, M)``, float64.

    >>> near, shares = neighbour_targets(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 2, 1.0)
    >>> near[3].tolist(), shares[0].round(decimals=4).tolist()
    ([3, 2], [0.6225, 0.3775])
    """
    near, far, tau = neighbours(entries, n_neighbours, temperature)
    return near, torch.softmax(-far.square() / (2 * tau**2), dim=1)


def neighbours(entries: Tensor, n_neighbours: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest codes of each code, itself first, ``(C, M)``, their distances ``(C, M)`` and tau ``()``, float64."""
    entries, n = entries.double(), min(max(n_neighbours, 2), len(entries))
    found = [
        torch.cdist(part, entries, compute_mode="donot_use_mm_for_euclid_dist").topk(n, largest=False)
        for part in entries.split(1024)  # never all pairs at once
    ]
    far, near = (torch.cat(parts) for parts in zip(*found, strict=True))
    steps = far[:, 1:2][far[:, 1:2] > 0]
    tau = temperature * (steps.median() if len(steps) else torch.ones_like(far[0, 0]))
    return near[:, :n_neighbours], far[:, :n_neighbours], tau


def values(
    options: LossFormConfig, logits: Tensor, codes: Tensor, entries: Tensor, sigma: Tensor | None = None
) -> Tensor:
    """The form that ``options`` ask for: ``(K,)`` from logits ``(K, C)``, codes ``(K,)`` and entries ``(C, D)``.

    ``sigma (K,)``: standard errors of the targets, which only ``errors=width`` reads.
    """
    if options.errors == ErrorUse.width and sigma is not None:
        return FORMS[options.form].made()(logits, codes, entries, options, sigma)
    return FORMS[options.form].made()(logits, codes, entries, options)


def check_entries(options: LossFormConfig, name: str, entries: Tensor, n_bins: Tensor | None) -> None:
    """Refuse a codebook that the form cannot use.

    Raises:
        ConfigError: bins out of order, or a codebook too large for the distances of all pairs.
    """
    if n_bins is None:
        if options.form == LossForm.energy and len(entries) > MAX_ENERGY_CODES:
            raise ConfigError(
                f"at most {MAX_ENERGY_CODES} codes with form energy",
                got=len(entries),
                where=f"codebook {name}",
                repair="form=neighbour_ce or expectation",
            )
    elif options.form not in (LossForm.expectation, LossForm.expectation_spread, LossForm.neighbour_ce):
        inside = torch.arange(1, entries.shape[1]) < n_bins[:, None]
        if (entries.diff(dim=1) < 0)[inside].any():
            raise ConfigError(
                "bin centres in ascending order",
                got="others",
                where="scalar codebook",
                repair=f"sort them; {options.form.value} needs their order",
            )
