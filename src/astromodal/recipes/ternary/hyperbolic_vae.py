"""Variational autoencoder of ternary operations with its latent on a Poincaré ball.

Encoder: a perceptron of the digits (one-hot, 3 per trit) gives mean m and log-variance of a Gaussian in the tangent
space at the origin; the latent is ``z = exp_0(t)``, t drawn from that Gaussian (in ``eval()`` mode t = m, whose z is
what "posterior mean" means here). Decoder: a perceptron of ``log_0(z)`` and of the hyperbolic distances from z to
learned points of the ball, to three logits per trit.

Posterior and prior, N(0, 1) in the tangent space, are carried to the ball by the same invertible map exp_0, under
which a Kullback-Leibler divergence does not change: the closed form of two Gaussians is exact (a wrapped normal of
Nagano et al. 2019, arXiv:1902.02992, whose mean is moved in the tangent space and not by parallel transport).

Shapes: B operations, T trits, D latent dimensions, K points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError, DataError
from . import poincare
from .operations import N_OPERATIONS, count_trits, operation_trits

LOG_VARIANCE = (-10.0, 4.0)  # limits, so that a bad step cannot overflow
FIRST_LOG_VARIANCE = -3.0  # of an untrained posterior: narrow, so that the decoder sees a signal from the start
RESOLUTION = 1e-7  # of trits given as floats


class TernaryVAE(nn.Module):
    """Encoder, ball, decoder.

    Args:
        input_dim: number of operations, a power of 3: 19,683 = 3**9.
        curvature: c; the ball has curvature -c and radius 1 / sqrt(c).
        width, n_layers: hidden layers of encoder and decoder.
        n_points: learned points of the ball whose distances the decoder sees; 0 for none.
        riemannian: the points are ``geoopt.ManifoldParameter``, for Riemannian Adam; needs geoopt. Without it every
            parameter is Euclidean (the points are held by their logarithm), and any optimizer will do.

    A batch is a tensor of operation numbers ``(B,)``, of trits ``(B, T)``, the public one-hot ``(B, input_dim)``,
    or a mapping with one of them as ``index``, ``trits`` or ``x``. One-hot vectors are multiplied with the table of
    all digits, a linear map: a mixture of operations enters as the mixture of their digits, and gradients reach the
    input. It costs B x 19,683 numbers for what is one; numbers are the way to feed this network.

    Raises:
        ConfigError: a size below 1, an ``input_dim`` that is no power of 3, or geoopt is wanted and missing.
    """

    trit_table: Tensor  # (input_dim, T) int8

    def __init__(
        self,
        input_dim: int = N_OPERATIONS,
        latent_dim: int = 16,
        curvature: float = 1.0,
        *,
        width: int = 128,
        n_layers: int = 2,
        n_points: int = 16,
        riemannian: bool = False,
    ) -> None:
        super().__init__()
        for key, value, least in (
            ("latent_dim", latent_dim, 1),
            ("width", width, 1),
            ("n_layers", n_layers, 1),
            ("n_points", n_points, int(riemannian)),
        ):
            if value < least:
                raise ConfigError(f"{key} of {least} or more", got=value, where="TernaryVAE")
        self.input_dim, self.n_trits = int(input_dim), count_trits(input_dim)
        self.latent_dim, self.curvature = int(latent_dim), poincare.check_curvature(curvature)
        self.settings = {"width": width, "n_layers": n_layers, "n_points": n_points, "riemannian": riemannian}
        self.encoder = perceptron(3 * self.n_trits, width, n_layers, 2 * latent_dim)
        with torch.no_grad():
            self.encoder[-1].get_parameter("bias")[latent_dim:].fill_(FIRST_LOG_VARIANCE)
        self.decoder = perceptron(latent_dim + n_points, width, n_layers, 3 * self.n_trits)
        options: dict[str, Any] = {"riemannian": riemannian}
        self.points = poincare.BallPoints(n_points, latent_dim, self.curvature, **options) if n_points else None
        trits = torch.from_numpy(operation_trits(torch.arange(self.input_dim).numpy(), self.n_trits))
        self.register_buffer("trit_table", trits, persistent=False)

    def to_dict(self) -> dict[str, Any]:
        """The arguments that build this network again."""
        sizes = {"input_dim": self.input_dim, "latent_dim": self.latent_dim, "curvature": self.curvature}
        return sizes | self.settings

    # ------------------------------------------------------------------------------------------ batches

    def digits(self, batch: Any) -> Tensor:
        """One-hot digits ``(B, 3 T)`` of a batch in any of its forms.

        Raises:
            DataError: a tensor that is none of them.
        """
        batch = _tensor_of(batch)
        if batch.ndim == 2 and batch.shape[1] == self.input_dim:
            return batch.to(self.trit_table.device) @ self._one_hot(self.trit_table).to(batch.dtype)
        return self._one_hot(self.trit_table[self.index(batch)])

    def index(self, batch: Any) -> Tensor:
        """Operation numbers ``(B,)``, int64; of a mixture of operations, that of the largest share.

        Raises:
            DataError: numbers or trits of no operation, or a tensor of another shape.
        """
        batch = _tensor_of(batch)
        if batch.ndim == 2 and batch.shape[1] == self.input_dim:
            return batch.argmax(1).to(self.trit_table.device)
        if batch.ndim == 2 and batch.shape[1] == self.n_trits:
            digits = batch.round().long() + 1
            if not (batch - batch.round()).abs().max() <= RESOLUTION or digits.min() < 0 or digits.max() > 2:
                raise DataError("trits that are -1, 0 or 1", got=f"{float(batch.min())} to {float(batch.max())}")
            return (digits * 3 ** torch.arange(self.n_trits, device=batch.device)).sum(1).to(self.trit_table.device)
        if batch.ndim != 1 or batch.is_floating_point():
            expected = f"(B,) whole numbers, (B, {self.n_trits}) trits or (B, {self.input_dim}) one-hot"
            raise DataError(expected, got=f"{tuple(batch.shape)} {batch.dtype}", where="a batch of TernaryVAE")
        if len(batch) and batch.device.type == "cpu" and not 0 <= int(batch.min()) <= int(batch.max()) < self.input_dim:
            raise DataError(f"operations from 0 to {self.input_dim - 1}", got=f"{batch.min()} to {batch.max()}")
        return batch.to(self.trit_table.device).long()

    @staticmethod
    def _one_hot(trits: Tensor) -> Tensor:
        return F.one_hot(trits.long() + 1, 3).flatten(1).float()

    # ------------------------------------------------------------------------------------------ network

    def encode(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(B, D)`` of the Gaussian in the tangent space at the origin."""
        mean, log_variance = self.encoder(self.digits(batch)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, z: Tensor) -> Tensor:
        """Points of the ball ``(B, D)`` to logits ``(B, T, 3)`` of the digits -1, 0, 1."""
        features = [poincare.log0(z, self.curvature)]
        if self.points is not None:
            features.append(poincare.distance(z[:, None], self.points(), self.curvature))
        return self.decoder(torch.cat(features, -1)).unflatten(-1, (self.n_trits, 3))

    def forward(self, batch: Any) -> dict[str, Any]:
        """What the losses read.

        Returns:
            ``index`` (B,), ``mean`` and ``log_variance`` (B, D) in the tangent space, ``z`` (B, D) the latent that was
            decoded, ``z_mean`` (B, D) that of the mean, ``logits`` (B, T, 3), and the number ``curvature``.
        """
        mean, log_variance = self.encode(batch)
        with torch.autocast(mean.device.type, enabled=False):  # half precision has no room near the border
            z_mean = poincare.exp0(mean, self.curvature)
            tangent = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
            z = poincare.exp0(tangent, self.curvature) if self.training else z_mean
        return {
            "index": self.index(batch),
            "mean": mean,
            "log_variance": log_variance,
            "z": z,
            "z_mean": z_mean,
            "logits": self.decode(z),
            "curvature": self.curvature,
        }

    @torch.no_grad()
    def predict(self, batch: Any) -> Tensor:
        """Trits ``(B, T)`` decoded from the posterior mean, int8."""
        mean, _ = self.encode(batch)
        return (self.decode(poincare.exp0(mean, self.curvature)).argmax(-1) - 1).to(torch.int8)


def perceptron(n_in: int, width: int, n_layers: int, n_out: int) -> nn.Sequential:
    """``n_layers`` hidden layers of ``width`` with SiLU, and a linear one."""
    layers: list[nn.Module] = []
    for _ in range(n_layers):
        layers += [nn.Linear(n_in, width), nn.SiLU()]
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))


def _tensor_of(batch: Any) -> Tensor:
    """The tensor in a batch."""
    if isinstance(batch, Mapping):
        found = [batch[key] for key in ("index", "trits", "x") if key in batch]
        if not found:
            raise DataError("a batch with index, trits or x", got=", ".join(map(str, batch)) or "nothing")
        return found[0]
    return batch if isinstance(batch, Tensor) else torch.as_tensor(batch)
