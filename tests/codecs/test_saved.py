"""A stranger's codec: its settings are those of its weights, or one line says which are not."""

from __future__ import annotations

import time

import pytest
import torch

from astromodal.codecs.base import build_codec
from astromodal.codecs.saved import codec_with_weights
from astromodal.config import schema
from astromodal.errors import UserError
from astromodal.files.io import plain
from tests.mutations import mutations, replaced

CODECS = {
    "autoencoder": (schema.AutoencoderConfig(width=8, n_blocks=1), (3, 8, 8)),
    "vae": (schema.VAEConfig(width=8, n_blocks=1), (1, 40)),
    "ternary_vae": (schema.TernaryCodecConfig(width=8, n_blocks=1), (3, 8, 8)),
    "masked_autoencoder": (schema.MaskedAutoencoderConfig(width=8, patch_size=8, n_layers=1), (1, 70)),
}


@pytest.fixture(params=list(CODECS))
def saved(request):
    torch.manual_seed(0)
    codec = build_codec(*CODECS[request.param]).eval()
    return codec, plain(codec.to_dict()), codec.state_dict()


def test_a_codec_comes_back_with_its_weights(saved):
    codec, values, state = saved
    again = codec_with_weights(values, state, "a.pt")
    x = torch.randn(2, *codec.array_shape)
    assert torch.equal(again(x, torch.ones_like(x, dtype=torch.bool)), codec(x, torch.ones_like(x, dtype=torch.bool)))


def test_any_other_value_is_one_line_or_a_codec_of_these_weights(saved):
    _, values, state = saved
    start = time.process_time()
    for name, changed in mutations(values):
        try:
            codec = codec_with_weights(changed, state, "a.pt")
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 300, name
        else:
            assert sum(p.numel() for p in codec.state_dict().values()) == sum(p.numel() for p in state.values()), name
    assert time.process_time() - start < 30


@pytest.mark.parametrize(("key", "value"), [("width", 10**6), ("width", 10**7), ("n_blocks", 10**7), ("width", 2.5)])
def test_what_the_weights_do_not_have_is_never_built(key, value):
    codec = build_codec(*CODECS["vae"])
    values = replaced(plain(codec.to_dict()), ("config", key), value)
    with pytest.raises(UserError, match=r"a\.pt"):
        codec_with_weights(values, codec.state_dict(), "a.pt")


def test_weights_that_are_not_finite_are_refused(saved):
    _, values, state = saved
    name = next(name for name, value in state.items() if value.is_floating_point() and value.numel())
    broken = state[name].clone()
    broken.view(-1)[0] = float("nan")
    with pytest.raises(UserError, match=f"finite weights.*{name}"):
        codec_with_weights(values, state | {name: broken}, "a.pt")
