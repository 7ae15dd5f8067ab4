"""The masked autoencoder's own promises: hidden blocks are not looked at, and cost nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.codecs.base import build_codec
from astromodal.codecs.masked_autoencoder import largest_divisor
from astromodal.codecs.spectrum_transformer import Block, SpectrumEncoder
from astromodal.config.schema import MaskedAutoencoderConfig
from astromodal.errors import ConfigError

SMALL = {"width": 16, "n_layers": 2, "decoder_layers": 1, "n_heads": 2, "patch_size": 4, "pixels_per_latent": 8}


def make(n_pixels=50, **changes):
    torch.manual_seed(0)
    return build_codec(MaskedAutoencoderConfig(**(SMALL | {"n_blocks": 6, "n_mask": 2} | changes)), (1, n_pixels))


def spectra(n, n_pixels=50):
    x = torch.randn(n, 1, n_pixels, generator=torch.Generator().manual_seed(1))
    return x, torch.ones_like(x, dtype=torch.bool)


def hide(codec, blocks):
    hidden = torch.zeros(len(blocks), codec.n_blocks, dtype=torch.bool)
    for row, numbers in enumerate(blocks):
        hidden[row, numbers] = True
    return hidden


def test_hidden_blocks_are_not_seen_by_the_encoder():
    codec = make().eval()
    x, valid = spectra(2)
    hidden = hide(codec, [[0, 3], [2, 5]])
    latents = codec.encode(x, valid, hidden)
    other = torch.where(codec.visible(hidden)[:, None], x, 1e3)
    assert torch.equal(codec.encode(other, valid, hidden), latents)
    assert not torch.equal(codec.encode(other, valid), codec.encode(x, valid))


def test_hidden_tokens_are_left_out_of_the_sequence():
    codec = make(48, n_blocks=6)
    lengths = []
    hook = lambda module, args: lengths.append(args[0].shape[1])  # noqa: E731
    for block in codec.encoder.blocks:
        block.register_forward_pre_hook(hook)
    x, valid = spectra(3, 48)
    codec.encode(x, valid)
    codec.encode(x, valid, hide(codec, [[0, 1], [2, 3], [4, 5]]))
    tokens, latents = 48 // 4, 6
    assert lengths == [tokens + latents] * 2 + [tokens - 2 * 2 + latents] * 2


def test_only_the_asked_positions_of_the_last_layer_are_computed_and_they_are_the_same():
    torch.manual_seed(0)
    block, x = Block(16, 2, 32), torch.randn(2, 7, 16)
    torch.testing.assert_close(block(x, 3), block(x)[:, :3], rtol=1e-5, atol=1e-6)


def test_every_latent_sees_the_whole_spectrum():
    codec = make().eval()
    x, valid = spectra(1)
    changed = x.clone()
    changed[0, 0, 48] += 1.0
    difference = (codec.encode(changed, valid) - codec.encode(x, valid)).abs().amax(1)[0]
    assert (difference > 0).all() and len(difference) == 7  # ceil(50 / 8)


def test_visible_pixels_weigh_as_configured():
    codec = make(visible_weight=0.25).eval()
    objective = codec.objective(["flux"])
    x, valid = spectra(2)
    batch = objective.prepare([{"x": x, "valid": valid, "weight": torch.ones_like(x)}], 3)[0]
    visible = codec.visible(batch["hidden"])[:, None]
    error = (codec(x, valid, batch["hidden"]) - x).square()
    weight = torch.where(visible, 0.25, 1.0)
    assert float(objective(batch)[0]) == pytest.approx(float((weight * error).sum() / weight.sum()), rel=1e-5)


def test_masks_change_with_the_step_and_come_back_with_it():
    objective = make().objective(["flux"])
    x, valid = spectra(8)

    def drawn(step):
        return objective.prepare([{"x": x, "valid": valid, "weight": valid.float()}], step)[0]["hidden"]

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert (drawn(1).sum(1) == 2).all()


@pytest.mark.parametrize("n_pixels", [1, 7, 8, 55, 331])
def test_any_number_of_pixels_fits(n_pixels):
    codec = make(n_pixels, n_blocks=16).eval()
    x, valid = spectra(2, n_pixels)
    latents = codec.encode(x, valid)
    assert latents.shape == (2, 4, -(-n_pixels // 8)) and latents.abs().max() < 1
    assert codec.decode(latents).shape == (2, 1, n_pixels)
    objective = codec.objective(["flux"])
    loss, _ = objective(objective.prepare([{"x": x, "valid": valid, "weight": valid.float()}], 1)[0])
    assert torch.isfinite(loss)


def test_a_patch_divides_what_a_latent_stands_for():
    assert make(50, pixels_per_latent=5, patch_size=8).encoder.patch_size == 5
    assert all(number % largest_divisor(number, limit) == 0 for number, limit in np.ndindex(40, 9) if number and limit)


def test_large_values_are_compressed_and_not_cut_off():
    codec = make().eval()
    x, valid = spectra(1)
    x[0, 0, 10] = 1e6
    first = codec.encode(x, valid)
    x[0, 0, 10] = 1e3
    assert not torch.equal(codec.encode(x, valid), first) and torch.isfinite(first).all()


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="one channel, got 2"):
        build_codec(MaskedAutoencoderConfig(), (2, 64))
    with pytest.raises(ConfigError, match="n_mask from 0 to below n_blocks = 4, got 4"):
        make(n_blocks=4, n_mask=4)
    with pytest.raises(ConfigError, match="latent_channels of 1 or more, got 0"):
        make(latent_channels=0)
    with pytest.raises(ConfigError, match="a width that 3 heads divide, got 16"):
        make(n_heads=3)


def test_an_encoder_without_missing_values_has_no_parameters_for_them():
    with_them, without = (SpectrumEncoder(6, 2, 1, 8, 1, 2, missing=missing) for missing in (True, False))
    assert set(dict(with_them.named_parameters())) - set(dict(without.named_parameters())) == {"missing.weight"}
