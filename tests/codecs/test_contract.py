"""One contract for every codec: shapes, determinism, missing values, gradients, shares of a step, save and load.

A new codec adds one entry to ``SMALL``: a small configuration, and the arrays it is tried on (one shape for each number
of dimensions that the table ``CODECS`` claims for it).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from astromodal.codecs.base import Codec, build_codec, codec_from_dict
from astromodal.config import schema
from astromodal.config.families import CODECS
from astromodal.errors import ArtifactError, ConfigError
from astromodal.models.trainable import Objective

SMALL: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "autoencoder": (schema.AutoencoderConfig(width=16, n_blocks=1), [(3, 16, 16)]),
    "vae": (schema.VAEConfig(width=16, n_blocks=1, patch_size=8), [(3, 16, 16), (1, 60)]),
    "masked_autoencoder": (
        schema.MaskedAutoencoderConfig(
            width=16, n_layers=2, decoder_layers=1, n_heads=2, patch_size=4, n_blocks=6, n_mask=2, pixels_per_latent=8
        ),
        [(1, 45)],
    ),
    "ternary_vae": (schema.TernaryCodecConfig(width=16, n_blocks=1, patch_size=8), [(3, 16, 16), (1, 40)]),
}
CASES = [
    pytest.param(config, shape, id=f"{name} {shape}") for name, (config, shapes) in SMALL.items() for shape in shapes
]
every_codec = pytest.mark.parametrize(("config", "shape"), CASES)
N = 6


def make(config: Any, shape: tuple[int, ...], seed: int = 0) -> Codec:
    """A codec whose every path has something to say (layers may start as zero or as the identity)."""
    torch.manual_seed(seed)
    codec = build_codec(config, shape)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return codec


def arrays(shape: tuple[int, ...], n: int = N, seed: int = 0) -> torch.Tensor:
    """Smooth arrays of unit size: two patterns in random proportions, per channel another sign, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    grids = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape[1:]), indexing="ij")
    distance = sum(grid.square() for grid in grids)
    patterns = torch.stack([torch.exp(-4 * distance), torch.sin(3 * sum(grids))])
    amounts = torch.randn(n, 2, generator=generator)
    x = torch.einsum("nk,k...->n...", amounts, patterns)[:, None]
    signs = torch.tensor([1.0, -1.0] * shape[0])[: shape[0]].reshape(-1, *(1,) * len(grids))
    return x * signs + 0.02 * torch.randn(n, *shape, generator=generator)


def some_valid(shape: tuple[int, ...], n: int = N, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) > 0.3


def as_batch(x: torch.Tensor, valid: torch.Tensor | None = None, first_row: int = 0) -> dict[str, torch.Tensor]:
    valid = torch.ones_like(x, dtype=torch.bool) if valid is None else valid
    weight = valid * (0.5 + torch.rand(x.shape, generator=torch.Generator().manual_seed(first_row)))
    return {"x": x, "valid": valid, "weight": weight, "row": torch.arange(first_row, first_row + len(x))}


def part(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: value[rows] for name, value in batch.items() if name != "weight_total"}


def channels(shape: tuple[int, ...]) -> list[str]:
    return [f"c{i}" for i in range(shape[0])]


def test_every_codec_is_tried_in_every_dimension_it_claims():
    for name, row in CODECS.items():
        if not row.place:  # patches: no network
            continue
        assert name in SMALL, f"add {name} to SMALL"
        config, shapes = SMALL[name]
        assert type(config) is row.section and config.name == name
        assert {len(shape) - 1 for shape in shapes} == set(row.facts["dims"])


@every_codec
def test_shapes(config, shape):
    codec = make(config, shape).eval()
    x, valid = arrays(shape), some_valid(shape)
    latents = codec.encode(x, valid)
    assert codec.array_shape == shape and latents.shape == (N, *codec.latent_shape)
    assert len(codec.latent_shape) == len(shape)  # Z channels on a grid of the same number of dimensions
    decoded = codec.decode(latents)
    assert decoded.shape == x.shape and torch.isfinite(decoded).all()
    assert codec(x, valid).shape == x.shape


@every_codec
def test_evaluation_is_deterministic_and_objects_do_not_see_each_other(config, shape):
    codec = make(config, shape).eval()
    x, valid = arrays(shape), some_valid(shape)
    latents = codec.encode(x, valid)
    decoded = codec.decode(latents)
    torch.manual_seed(99)
    assert torch.equal(codec.encode(x, valid), latents) and torch.equal(codec.decode(latents), decoded)
    assert torch.equal(codec(x, valid), codec(x, valid))
    torch.testing.assert_close(codec.encode(x[2:3], valid[2:3]), latents[2:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents[2:3]), decoded[2:3], rtol=1e-4, atol=1e-5)


@every_codec
def test_latents_tell_arrays_apart(config, shape):
    codec = make(config, shape).eval()
    latents = codec.encode(arrays(shape), torch.ones(N, *shape, dtype=torch.bool)).flatten(1)
    distances = torch.cdist(latents, latents)[~torch.eye(N, dtype=torch.bool)]
    assert (distances > 0).all()
    decoded = codec.decode(codec.encode(arrays(shape), torch.ones(N, *shape, dtype=torch.bool))).flatten(1)
    assert (torch.cdist(decoded, decoded)[~torch.eye(N, dtype=torch.bool)] > 0).all()


@every_codec
def test_validity_may_be_given_as_numbers(config, shape):
    codec = make(config, shape).eval()
    x, valid = arrays(shape), some_valid(shape)
    assert torch.equal(codec.encode(x, valid.float()), codec.encode(x, valid))


@every_codec
def test_what_an_invalid_pixel_holds_never_matters(config, shape):
    codec = make(config, shape).eval()
    x, valid = arrays(shape), some_valid(shape)
    valid[0] = False  # an array of which nothing is known
    reference = codec.encode(x, valid)
    assert torch.isfinite(reference).all() and torch.isfinite(codec.decode(reference)).all()
    for value in (0.0, 1e6, float("nan"), float("inf")):
        assert torch.equal(codec.encode(torch.where(valid, x, value), valid), reference)


@every_codec
def test_the_loss_does_not_look_at_invalid_pixels_and_gives_them_no_gradient(config, shape):
    codec = make(config, shape).train()
    objective = codec.objective(channels(shape))
    x, valid = arrays(shape).requires_grad_(), some_valid(shape)
    torch.manual_seed(3)
    loss, _ = objective(objective.prepare([as_batch(x, valid)], 1)[0])
    loss.backward()
    assert (x.grad[~valid] == 0).all() and (x.grad[valid] != 0).any() and torch.isfinite(x.grad).all()
    torch.manual_seed(3)
    damaged = torch.where(valid, x.detach(), float("nan"))
    changed, _ = objective(objective.prepare([as_batch(damaged, valid)], 1)[0])
    assert torch.equal(changed, loss)


@every_codec
def test_gradient_reaches_every_parameter(config, shape):
    codec = make(config, shape).train()
    objective = codec.objective(channels(shape))
    torch.manual_seed(4)
    for step in range(1, 4):  # whatever is drawn at random has its turn
        loss, _ = objective(objective.prepare([as_batch(arrays(shape, seed=step), some_valid(shape))], step)[0])
        loss.backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), f"{name} has no gradient"


@every_codec
def test_losses_of_micro_batches_add_up_to_that_of_the_step(config, shape):
    objective = make(config, shape).objective(channels(shape)).eval()
    assert isinstance(objective, Objective)
    batch = as_batch(arrays(shape), some_valid(shape))
    with torch.no_grad():
        whole, stats = objective(objective.prepare([dict(batch)], 1)[0])
        parts = [part(batch, rows) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
        shares = [objective(share) for share in objective.prepare(parts, 1)]
    assert float(sum(loss for loss, _ in shares)) == pytest.approx(float(whole), rel=1e-4)
    for name, value in stats.items():
        assert value.ndim == 0
        assert float(sum(share[name] for _, share in shares)) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


@every_codec
def test_validation_is_repeatable_and_additive(config, shape):
    objective = make(config, shape).objective(channels(shape)).eval()
    batch = as_batch(arrays(shape), some_valid(shape))
    whole = totals(objective, [batch])
    torch.manual_seed(77)
    assert totals(objective, [batch]) == whole
    split = totals(objective, [part(batch, slice(0, 2)), part(batch, slice(2, 6))])
    assert split.keys() == whole.keys()
    for name, (value, weight) in whole.items():
        assert split[name][0] == pytest.approx(value, rel=1e-3, abs=1e-4), name
        assert split[name][1] == pytest.approx(weight, rel=1e-5), name
    metrics = objective.summarize(whole)
    assert {"loss", "score"} <= metrics.keys() and all(isinstance(value, float) for value in metrics.values())


def totals(objective: Any, batches: list[dict[str, torch.Tensor]]) -> dict[str, tuple[float, float]]:
    sums: dict[str, tuple[float, float]] = {}
    for batch in batches:
        for name, (value, weight) in objective.evaluate(dict(batch)).items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = (old[0] + float(value), old[1] + float(weight))
    return sums


@every_codec
def test_a_step_without_valid_pixels_has_a_finite_gradient(config, shape):
    objective = make(config, shape).train().objective(channels(shape))
    batch = as_batch(arrays(shape), torch.zeros(N, *shape, dtype=torch.bool))
    loss, _ = objective(objective.prepare([batch], 1)[0])
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@every_codec
def test_training_lowers_the_validation_score(config, shape):
    torch.manual_seed(0)
    objective = build_codec(config, shape).objective(channels(shape))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    held_out = as_batch(arrays(shape, 64, seed=1000))
    before = objective.eval().summarize(totals(objective, [held_out]))["score"]
    objective.train()
    for step in range(1, 121):
        loss, _ = objective(objective.prepare([as_batch(arrays(shape, 32, seed=step))], step)[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert objective.eval().summarize(totals(objective, [held_out]))["score"] < 0.7 * min(before, 1.0)


@every_codec
def test_a_codec_survives_saving_as_plain_values(config, shape, tmp_path):
    codec = make(config, shape).eval()
    torch.save({"codec": codec.to_dict(), "state": codec.state_dict()}, tmp_path / "codec.pt")
    content = torch.load(tmp_path / "codec.pt", weights_only=True)
    again = codec_from_dict(content["codec"]).eval()
    again.load_state_dict(content["state"])
    x, valid = arrays(shape), some_valid(shape)
    latents = codec.encode(x, valid)
    assert type(again) is type(codec) and again.latent_shape == codec.latent_shape
    assert torch.equal(again.encode(x, valid), latents) and torch.equal(again.decode(latents), codec.decode(latents))


@every_codec
def test_unknown_settings_and_arrays_of_other_dimensions_are_refused(config, shape):
    values = build_codec(config, shape).to_dict()
    with pytest.raises(ArtifactError, match="the settings of a known codec"):
        codec_from_dict(values | {"config": values["config"] | {"no_such_setting": 1}})
    claimed = CODECS[config.name].facts["dims"]
    for n_dims in {1, 2, 3} - set(claimed):
        with pytest.raises(ConfigError, match="a codec of "):
            build_codec(config, (1, *(16,) * n_dims))


@pytest.mark.parametrize("config", [schema.AutoencoderConfig(), schema.VAEConfig(), schema.TernaryCodecConfig()])
def test_cutouts_have_a_latent_for_each_patch_of_four_pixels_whatever_the_patch_of_spectra(config):
    assert build_codec(config, (2, 32, 32)).latent_shape[1:] == (8, 8)


def test_patches_of_cutouts_are_of_any_size_that_divides_them():
    config = schema.AutoencoderConfig(patch_size=6, width=8, n_blocks=1)
    codec = build_codec(config, (2, 24, 24))
    image = torch.zeros(1, 2, 24, 24)
    assert codec.latent_shape[1:] == (4, 4) and codec(image, image == 0).shape == image.shape
    with pytest.raises(ConfigError, match="multiple of 6, got 32"):
        build_codec(config, (2, 32, 32))
