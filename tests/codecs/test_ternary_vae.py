"""What the codec of trits promises beyond the contract: rounding, codes without loss, no collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from astromodal.codecs.base import build_codec
from astromodal.codecs.ternary_vae import soft_trits, to_trits
from astromodal.config.schema import FSQConfig, TernaryCodecConfig
from astromodal.errors import ConfigError
from astromodal.quantizers.fsq import FSQ
from astromodal.recipes.ternary.operations import operation_index
from tests.codecs.test_contract import arrays, as_batch, channels, make

SHAPES = [(3, 16, 16), (1, 40)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["cutouts", "spectra"])


def config(**options) -> TernaryCodecConfig:
    return TernaryCodecConfig(**{"width": 16, "n_blocks": 1, "patch_size": 8} | options)


def vectors(latents: torch.Tensor) -> np.ndarray:
    return latents.flatten(2).transpose(1, 2).reshape(-1, latents.shape[1]).detach().numpy()


def test_rounding_to_trits_passes_the_gradient_on():
    x = torch.tensor([-3.0, -0.51, -0.49, 0.0, 0.49, 0.51, 3.0], requires_grad=True)
    trits = to_trits(x)
    assert trits.tolist() == [-1, -1, 0, 0, 0, 1, 1]
    assert torch.equal(to_trits(trits), trits)
    (trits * torch.arange(7.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(7.0))


def test_soft_trits_are_shares_around_the_nearest_value():
    shares = soft_trits(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(shares.sum(-1), torch.ones(5))
    assert shares.argmax(-1)[[0, 2, 4]].tolist() == [0, 1, 2]
    torch.testing.assert_close(shares[1, 0], shares[1, 1])
    torch.testing.assert_close(shares[3, 1], shares[3, 2])
    assert shares[2, 1] > 0.99


@every_shape
def test_latents_are_trits_and_fsq_codes_them_without_loss(shape):
    codec = make(config(), shape).eval()
    x, valid = arrays(shape, 40), torch.ones(40, *shape, dtype=torch.bool)
    latents = codec.encode(x, valid)
    assert set(latents.unique().tolist()) == {-1.0, 0.0, 1.0} and codec.latent_shape[0] == 9
    rows = vectors(latents)
    fsq = FSQ(FSQConfig(levels=[3] * 9)).fit(rows)
    codes = fsq.encode(rows)
    entries = fsq.decode(codes)
    np.testing.assert_allclose(entries, rows, atol=1e-6)
    varied = [d for d in range(9) if len(np.unique(rows[:, d])) == 3]
    assert varied  # where all three occur, the digits of a code are those of the operation with the same trits
    own = operation_index(rows.astype(int))
    for d in varied:
        assert (codes // 3**d % 3 == own // 3**d % 3).all()
    back = torch.from_numpy(entries).float().reshape(40, -1, 9).transpose(1, 2).reshape(latents.shape)
    assert torch.equal(codec.decode(back), codec.decode(latents))


def test_trits_of_any_frequency_are_coded_without_loss():
    rng = np.random.default_rng(0)
    rows = np.stack(
        [
            rng.choice([-1.0, 0, 1], 5000, p=p)
            for p in ((0.02, 0.5, 0.48), (0.001, 0.998, 0.001), (0.5, 0.0, 0.5), (0.0, 0.3, 0.7), (0.0, 1.0, 0.0))
        ],
        1,
    )
    fsq = FSQ(FSQConfig(levels=[3] * 5)).fit(rows)
    np.testing.assert_allclose(fsq.decode(fsq.encode(rows)), rows, atol=1e-6)


def test_centres_that_are_no_trits_decode_as_the_nearest():
    codec = make(config(), SHAPES[0]).eval()
    trits = torch.randint(-1, 2, (2, *codec.latent_shape)).float()
    assert torch.equal(codec.decode(trits * 2 / 3), codec.decode(trits))


@every_shape
def test_balance_makes_rare_values_attractive_and_its_usage_is_saved(shape):
    codec = make(config(balance=1.0), shape).train()
    objective = codec.objective(channels(shape))
    before = codec.usage.clone()
    batch = objective.prepare([as_batch(arrays(shape))], 1)[0]
    _, stats = objective(batch)
    assert not torch.equal(codec.usage, before) and "usage" in codec.state_dict()
    torch.testing.assert_close(codec.usage.sum(1), torch.ones(9))
    assert float(stats["loss"]) == pytest.approx(float(stats["reconstruction"] + stats["balance"]), rel=1e-5)
    assert abs(float(stats["balance"])) < 1e-5  # usage began at a third each
    objective.eval()
    frozen = codec.usage.clone()
    objective(batch)
    assert torch.equal(codec.usage, frozen)
    codec.usage.copy_(torch.tensor([0.01, 0.98, 0.01]).expand(9, 3))
    latents = torch.zeros(1, 9, 1, requires_grad=True)
    term = (soft_trits(latents + 0.3).mean((0, 2)) * (math.log(3) + codec.usage.log())).sum()
    term.backward()
    assert (latents.grad < 0).all()  # going down the gradient leads away from the crowded 0


def test_collapse_is_seen_in_validation():
    codec = make(config(), SHAPES[0])
    objective = codec.objective("gri").eval()

    def figures() -> dict[str, float]:
        totals = objective.evaluate(as_batch(arrays(SHAPES[0], 20)))
        return objective.summarize({k: (float(v), float(w)) for k, (v, w) in totals.items()})

    alive = figures()
    assert 1.0 < alive["perplexity"] <= 3.0 and alive["dead_trits"] < 9
    with torch.no_grad():
        codec.trunk.to_latents.weight.zero_()
        codec.trunk.to_latents.bias.fill_(2.0)
    collapsed = figures()
    assert collapsed["perplexity"] == 1.0 and collapsed["dead_trits"] == 9.0


def test_balance_raises_the_perplexity_of_sparse_arrays():
    """Arrays that are empty but for a few: without the term most trits say the same everywhere."""

    def trained(balance: float) -> dict[str, float]:
        torch.manual_seed(0)
        objective = build_codec(config(balance=balance), (1, 40)).objective(["c0"])
        optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)

        def sparse(seed: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(seed)
            return arrays((1, 40), 32, seed) * (torch.rand(32, 1, 1, generator=generator) < 0.3)

        for step in range(1, 151):
            loss, _ = objective(objective.prepare([as_batch(sparse(step))], step)[0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        totals = objective.eval().evaluate(as_batch(sparse(999)))
        return objective.summarize({k: (float(v), float(w)) for k, (v, w) in totals.items()})

    without, balanced = trained(0.0), trained(0.1)
    assert balanced["perplexity"] > without["perplexity"] + 0.1


def test_a_negative_balance_is_refused():
    with pytest.raises(ConfigError, match=r"tokenizer\.image\.codec\.balance"):
        build_codec(config(balance=-1.0), SHAPES[0])
