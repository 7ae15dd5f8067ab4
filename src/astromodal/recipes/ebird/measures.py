"""How good a model of checklists is, in nats per checklist on held-out ones, and what it is compared with.

Two questions are kept apart. *How probable are unseen checklists?* The importance-weighted bound on their likelihood
(Burda et al. 2016, arXiv:1509.00519) answers it for the VAE; the marginal frequencies of the species are the model that
knows nothing of communities. *How much does a code of a few numbers keep?* The reconstruction from the posterior mean
answers it, against a principal component analysis whose scores a logistic regression per species decodes; this
comparison charges neither code for what it costs.

Shapes: N checklists, S species, Z latents, K draws.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...codecs.variational import bernoulli_nats
from ...codecs.vector_vae import VariationalAutoencoder

CHUNK = 256  # checklists at once


@torch.no_grad()
def bound_nats(model: VariationalAutoencoder, x: Tensor, n_draws: int = 32, seed: int = 0) -> float:
    """Mean of minus the importance-weighted bound on the log-likelihood of ``x`` (N, S), from K draws per row.

    With one draw it is minus the evidence lower bound; with more it comes down to minus the log-likelihood itself.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for part in x.split(CHUNK):
        part = part.to(device)
        mean, log_variance = model.encode(part)
        noise = torch.randn(n_draws, *mean.shape, generator=generator).to(device)
        latents = mean + torch.exp(0.5 * log_variance) * noise  # (K, n, Z)
        decoded = model.decode(latents)
        log_joint = -model.nats(decoded, part.expand(n_draws, *part.shape)).sum(-1) - 0.5 * latents.square().sum(-1)
        log_posterior = -0.5 * (noise.square() + log_variance).sum(-1)
        log_weight = (log_joint - log_posterior).double()  # (K, n); the constants of both normals cancel
        total -= float((torch.logsumexp(log_weight, 0) - math.log(n_draws)).sum())
    return total / len(x)


@torch.no_grad()
def reconstruction_nats(model: VariationalAutoencoder, x: Tensor) -> float:
    """Mean of minus the log-likelihood of ``x`` (N, S) at the posterior mean."""
    device = next(model.parameters()).device
    parts = (part.to(device) for part in x.split(CHUNK))
    return sum(float(model.nats(model.decode(model.encode(p)[0]), p).sum()) for p in parts) / len(x)


def marginal_nats(train: Tensor, val: Tensor) -> float:
    """Independent species with their frequency in ``train`` (half an observation is added either way)."""
    frequency = (train.sum(0) + 0.5) / (len(train) + 1.0)
    return float(F.binary_cross_entropy(frequency.expand_as(val), val, reduction="none").sum(1).mean())


def principal_nats(train: Tensor, val: Tensor, n_components: int) -> float:
    """Principal components of ``train``, decoded by a logistic regression on them for each species."""
    from sklearn.decomposition import PCA

    n_components = min(n_components, train.shape[1], len(train) - 1)
    pca = PCA(n_components, random_state=0).fit(train.numpy())
    scores, held_out = (torch.from_numpy(pca.transform(x.numpy())).float() for x in (train, val))
    scale = scores.std(0).clamp_min(1e-6)
    scores, held_out = scores / scale, held_out / scale
    weight = torch.zeros(n_components, train.shape[1], requires_grad=True)
    bias = torch.logit((train.sum(0) + 0.5) / (len(train) + 1.0)).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        nats = bernoulli_nats(scores @ weight + bias, train).sum(1).mean() + 1e-3 * weight.square().mean()
        nats.backward()
        return nats

    optimizer.step(loss)
    with torch.no_grad():
        return float(bernoulli_nats(held_out @ weight + bias, val).sum(1).mean())


def true_nats(probabilities: np.ndarray, x: Tensor) -> float:
    """Mean of minus the log-likelihood under known probabilities ``(N, S)``: what nothing that generalises beats."""
    p = torch.from_numpy(probabilities).clamp(1e-7, 1 - 1e-7)
    return float(F.binary_cross_entropy(p, x.double(), reduction="none").sum(1).mean())


@torch.no_grad()
def unit_figures(model: VariationalAutoencoder, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean divergence (nats) of each latent and the variance of its posterior mean over ``x`` (N, S); both ``(Z,)``."""
    device = next(model.parameters()).device
    means, divergences = [], []
    for part in x.split(CHUNK):
        mean, log_variance = model.encode(part.to(device))
        means.append(mean.cpu())
        divergences.append((0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)).cpu())
    return torch.cat(divergences).mean(0).numpy(), torch.cat(means).var(0, correction=0).numpy()
