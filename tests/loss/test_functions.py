"""The documented losses against loops in plain Python, and the answers that are known in advance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from astromodal.config.schema import CEBalance, CEMode, LossConfig
from astromodal.errors import ArtifactError, ConfigError
from astromodal.loss.functions import (
    combined_loss,
    image_reconstruction_loss,
    scalar_reconstruction_loss,
    spectrum_reconstruction_loss,
)
from astromodal.loss.reference import as_loss_config
from astromodal.vocabulary.codebook import Codebook, ScalarCodebook
from astromodal.vocabulary.vocab import EOS, MISS, PAD, build_vocab_spec

VOCAB = build_vocab_spec(7, 6, {"blue": 5, "red": 9}, scalar_columns=("mag", "z"), n_bins=(6, 3))
ALL = {"sample_k": None}


def books():
    rng = np.random.default_rng(0)
    image = Codebook(3 + rng.normal(size=(7, 2)), rng.integers(1, 9, 7))
    spectrum = {g: Codebook(rng.normal(size=(n, 3)), rng.integers(1, 9, n)) for g, n in (("blue", 5), ("red", 9))}
    centers = np.asarray([[-2, -1, 0, 1, 2, 4], [0, 0.5, 3, 0, 0, 0]])
    return image, spectrum, ScalarCodebook(("mag", "z"), centers, rng.integers(1, 9, (2, 6)), (6, 3))


def batch(seed: int = 0, shape: tuple[int, int] = (3, 12)):
    """Logits, targets and target types of every kind."""
    rng = np.random.default_rng(seed)
    targets, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for index in np.ndindex(shape):
        kind = rng.choice(["pad", "special", "image", "mag", "z", "blue", "red"])
        if kind == "special":
            targets[index] = rng.choice([EOS, MISS])
        elif kind in ("mag", "z"):
            targets[index] = VOCAB.base_scalar + rng.integers(6 if kind == "mag" else 3)
            types[index] = VOCAB.type_of_column(kind)
        elif kind != "pad":
            block = VOCAB.block(kind)
            targets[index] = block.start + rng.integers(block.size)
            types[index] = 1 if kind == "image" else VOCAB.type_of_group(kind)
    logits = torch.randn(*shape, VOCAB.vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return logits.requires_grad_(), torch.from_numpy(targets), torch.from_numpy(types)


def weighted_variance(vectors, counts) -> float:
    """Usage-weighted total variance, by loops."""
    total = sum(counts)
    mean = [sum(c * v[d] for c, v in zip(counts, vectors, strict=True)) / total for d in range(len(vectors[0]))]
    return (
        sum(c * sum((v[d] - mean[d]) ** 2 for d in range(len(mean))) for c, v in zip(counts, vectors, strict=True))
        / total
    )


def slow_error(logits, code, start, vectors, counts) -> float:
    """Squared distance of expected and true entry over the variance, one logit after the other."""
    own = [float(logits[start + j]) for j in range(len(vectors))]
    top = max(own)
    weights = [math.exp(x - top) for x in own]
    expected = [
        sum(w * v[d] for w, v in zip(weights, vectors, strict=True)) / sum(weights) for d in range(len(vectors[0]))
    ]
    return sum((e - t) ** 2 for e, t in zip(expected, vectors[code], strict=True)) / weighted_variance(vectors, counts)


def slow_terms(logits, targets, types) -> dict[str, float]:
    image, spectrum, scalar = books()
    found: dict[str, list[float]] = {"loss_ce": [], "loss_img": [], "loss_sca": [], "loss_spec": []}
    flat = logits.detach().reshape(-1, logits.shape[-1]).numpy()
    for row, target, kind in zip(flat, targets.reshape(-1).tolist(), types.reshape(-1).tolist(), strict=True):
        if target == PAD:
            continue
        found["loss_ce"].append(math.log(sum(math.exp(x) for x in row)) - row[target])
        if target < 5:
            continue
        block = next(b for b in VOCAB.blocks if b.start <= target < b.stop)
        code = target - block.start
        if block.modality == "image":
            found["loss_img"].append(slow_error(row, code, block.start, image.entries.tolist(), image.counts.tolist()))
        elif block.modality == "spectrum":
            book = spectrum[block.name]
            found["loss_spec"].append(slow_error(row, code, block.start, book.entries.tolist(), book.counts.tolist()))
        else:
            column = kind - VOCAB.first_column_type
            n = int(scalar.n_bins[column])
            vectors = scalar.centers[column, :n, None].tolist()
            found["loss_sca"].append(slow_error(row, code, block.start, vectors, scalar.counts[column, :n].tolist()))
    return {name: sum(values) / len(values) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_all_terms_equal_a_loop_over_positions(seed):
    logits, targets, types = batch(seed)
    loss, stats = combined_loss(logits, targets, VOCAB, *books(), ALL | {"weight_image": 0.3}, target_types=types)
    expected = slow_terms(logits, targets, types)
    for name, value in expected.items():
        assert float(stats[name]) == pytest.approx(value, rel=1e-6), name  # codebooks are float32
    total = expected["loss_ce"] + 0.3 * expected["loss_img"] + 0.1 * (expected["loss_sca"] + expected["loss_spec"])
    assert float(loss.detach()) == pytest.approx(total, rel=1e-6) == float(stats["loss_total"])


def test_gradients_agree_with_finite_differences():
    _, targets, types = batch(1, (1, 8))
    logits = torch.randn(1, 8, VOCAB.vocab_size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: combined_loss(x, targets, VOCAB, *books(), ALL, target_types=types)[0], (logits,)
    )


def test_a_logit_outside_of_the_block_has_no_gradient_in_the_reconstruction():
    """Mass that leaks out of the block is invisible to the reconstruction, and visible to the cross-entropy."""
    logits, targets, types = batch(2)
    image_only = targets.where((types == 1), PAD)
    for use_ce in (False, True):
        loss, _ = combined_loss(logits, image_only, VOCAB, *books(), ALL, use_ce=use_ce, target_types=types)
        (gradient,) = torch.autograd.grad(loss, logits)
        outside = torch.ones(VOCAB.vocab_size, dtype=torch.bool)
        outside[VOCAB.base_image : VOCAB.base_image + 7] = False
        assert bool((gradient[..., outside] != 0).any()) == use_ce


def test_a_column_with_fewer_bins_never_sees_the_other_bins():
    logits, _, _ = batch(0, (1, 1))
    targets = torch.tensor([[VOCAB.base_scalar + 1]])
    types = torch.tensor([[VOCAB.type_of_column("z")]])
    loss, _ = combined_loss(logits, targets, VOCAB, *books(), ALL, use_ce=False, target_types=types)
    (gradient,) = torch.autograd.grad(loss, logits)
    own = slice(VOCAB.base_scalar, VOCAB.base_scalar + 3)
    assert gradient[0, 0, own].abs().min() > 0
    gradient[0, 0, own] = 0
    assert not gradient.any()


# -------------------------------------------------------------------------------- known answers


def uniform_logits(n: int, width: int) -> torch.Tensor:
    return torch.zeros(n, width, dtype=torch.float64)


def test_a_uniform_prediction_has_error_one_under_uniform_usage():
    codebook = np.random.default_rng(0).normal(size=(50, 16)) * 7 + 100
    error = image_reconstruction_loss(uniform_logits(50, 50), torch.arange(50), codebook)
    assert float(error) == pytest.approx(1.0, rel=1e-6)


def test_a_perfect_prediction_has_error_zero():
    codebook = np.random.default_rng(0).normal(size=(50, 16))
    logits = 200.0 * torch.eye(50, dtype=torch.float64)
    assert float(image_reconstruction_loss(logits, torch.arange(50), codebook)) == pytest.approx(0.0, abs=1e-12)


def test_a_bimodal_prediction_with_the_right_mean_has_error_zero():
    """The known weakness of the expectation: half at -3, half at +3, truth 0."""
    logits = torch.tensor([[50.0, 0.0, 50.0]])
    error = scalar_reconstruction_loss(logits, torch.tensor([1]), np.asarray([-3.0, 0.0, 3.0]))
    assert float(error) == pytest.approx(0.0, abs=1e-12)


def test_a_confidently_wrong_prediction_hardly_has_a_gradient():
    """The other weakness: logit +20 at the wrong entry of 1024; cross-entropy moves it, the expectation does not."""
    centers = torch.linspace(-1.7, 1.7, 1024)
    logits = torch.zeros(1, 1024, dtype=torch.float64)
    logits[0, 900] = 20.0
    logits.requires_grad_()
    scalar_reconstruction_loss(logits, torch.tensor([100]), centers).backward()
    assert 0 < float(logits.grad.norm()) < 1e-3


def test_errors_do_not_depend_on_the_units_of_the_codebook():
    logits, targets = torch.randn(20, 9, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 9
    codebook = np.random.default_rng(0).normal(size=(9, 4))
    a = image_reconstruction_loss(logits, targets, codebook)
    b = image_reconstruction_loss(logits, targets, codebook * 1000 - 5)
    assert float(a) == pytest.approx(float(b), rel=1e-4)
    with pytest.warns(UserWarning, match="standardize"):
        raw = image_reconstruction_loss(logits, targets, codebook * 1000, standardize=False)
    assert float(raw) > 1e4 * float(a)


# ------------------------------------------------------------------------------------- options


def test_cross_entropy_over_the_block_knows_the_type():
    logits, targets, types = batch(3)
    _, stats = combined_loss(logits, targets, VOCAB, *books(), ALL | {"ce": "block"}, target_types=types)
    expected = []
    for row, target, kind in zip(
        logits.reshape(-1, VOCAB.vocab_size), targets.reshape(-1), types.reshape(-1), strict=True
    ):
        if target < 5:
            continue
        block = next(b for b in VOCAB.blocks if b.start <= target < b.stop)
        size = block.size if block.modality != "scalar" else VOCAB.n_bins[kind - VOCAB.first_column_type]
        own = row[block.start : block.start + size].detach()
        expected.append(float(own.logsumexp(0) - own[target - block.start]))
    assert float(stats["loss_ce"]) == pytest.approx(np.mean(expected))


def test_terms_can_be_left_out():
    logits, targets, types = batch()
    everything = combined_loss(logits, targets, VOCAB, *books(), ALL, target_types=types)[1]
    only_ce = combined_loss(logits, targets, VOCAB, *books(), {"enabled": False}, target_types=types)[1]
    only_reconstruction = combined_loss(logits, targets, VOCAB, *books(), ALL, use_ce=False, target_types=types)[1]
    assert float(only_ce["loss_total"]) == float(everything["loss_ce"]) and float(only_ce["loss_img"]) == 0
    assert float(only_reconstruction["loss_ce"]) == 0
    assert float(only_reconstruction["loss_img"]) == float(everything["loss_img"])


@pytest.mark.parametrize("k", [0, 1, 4, None, 10_000])
def test_at_most_sample_k_positions_per_modality_are_used(k):
    logits, targets, types = batch(0, (8, 40))
    _, stats = combined_loss(logits, targets, VOCAB, *books(), {"sample_k": k}, target_types=types)
    for name, modality in (("image", {1}), ("scalar", {4, 5}), ("spectrum", {2, 3})):
        available = sum(
            int(t) in modality for t, y in zip(types.reshape(-1), targets.reshape(-1), strict=True) if y >= 5
        )
        assert int(stats[f"n_{name}"]) == (available if k is None else min(k, available))
    assert (float(stats["loss_img"]) == 0) == (k == 0)


def test_the_draw_follows_its_generator_and_no_other():
    logits, targets, types = batch(0, (8, 40))

    def value(seed: int) -> float:
        torch.manual_seed(99)
        generator = torch.Generator().manual_seed(seed)
        loss, _ = combined_loss(
            logits, targets, VOCAB, *books(), {"sample_k": 2}, target_types=types, generator=generator
        )
        assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(99)).item()
        return float(loss.detach())

    assert value(0) == value(0) != value(1)


def test_positions_can_be_given():
    logits, targets, types = batch(0, (2, 20))
    images = (types.reshape(-1) == 1).nonzero()[:3, 0]
    _, stats = combined_loss(logits, targets, VOCAB, *books(), ALL, target_types=types, selection={"image": images})
    picked = image_reconstruction_loss(
        logits.reshape(-1, VOCAB.vocab_size)[images], targets.reshape(-1)[images], books()[0], vocab=VOCAB
    )
    assert float(stats["loss_img"]) == pytest.approx(float(picked.detach())) and int(stats["n_image"]) == 3
    assert float(stats["loss_sca"]) == 0


def test_nothing_valid_gives_exactly_zero_with_a_gradient():
    logits = torch.randn(2, 3, VOCAB.vocab_size, requires_grad=True)
    loss, stats = combined_loss(
        logits,
        torch.zeros(2, 3, dtype=torch.int64),
        VOCAB,
        *books(),
        ALL,
        target_types=torch.zeros(2, 3, dtype=torch.int64),
    )
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any() and int(stats["n_ce"]) == 0


def test_balance_by_modality_gives_each_the_same_weight():
    logits, targets, types = batch(0, (1, 30))
    value = combined_loss(
        logits, targets, VOCAB, *books(), {"enabled": False, "ce_balance": "modality"}, target_types=types
    )[0]
    losses = -logits.log_softmax(-1)[0].gather(1, targets[0][:, None])[:, 0]
    real, special = targets[0] != PAD, (targets[0] != PAD) & (targets[0] < 5)
    means = [
        losses[(targets[0] >= 5) & torch.isin(types[0], torch.tensor(kinds))].mean() for kinds in ([1], [2, 3], [4, 5])
    ]
    share = special.sum() / real.sum()
    expected = (1 - share) * sum(means) / 3 + losses[special].sum() / real.sum()
    assert float(value.detach()) == pytest.approx(float(expected.detach()))


# -------------------------------------------------------------------- the documents' ways to call it


def test_the_documented_call_with_plain_arrays_runs():
    vocab = build_vocab_spec(v_image=16, v_scalar=8, v_spectra=12)
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(rng.integers(5, vocab.vocab_size, (2, 30)))
    logits = torch.randn(2, 30, vocab.vocab_size, requires_grad=True)
    with pytest.warns(UserWarning, match="one spectrum codebook"):
        loss, stats = combined_loss(
            logits=logits,
            targets=targets,
            vocab=vocab,
            image_codebook=rng.normal(size=(16, 2)),
            spectrum_codebook=rng.normal(size=(12, 3)),
            scalar_centers=np.linspace(0, 1, 8),
            config={
                "enabled": True,
                "sample_k": 4096,
                "weight_image": 0.1,
                "weight_scalar": 0.1,
                "weight_spectrum": 0.1,
            },
            use_ce=True,
        )
    loss.backward()
    text = f"{stats['loss_ce']:.4f} {stats['loss_img']:.4f} {stats['loss_sca']:.4f} {stats['loss_spec']:.4f}"
    assert all(float(part) > 0 for part in text.split())


def test_reconstructions_come_back_in_raw_units():
    image, spectrum, scalar = books()
    logits, targets, types = batch(4)
    with torch.no_grad():
        found = image_reconstruction_loss(logits, targets, torch.from_numpy(image.entries), return_reconstruction=True)
    rows = logits[(types == 1) & (targets >= 5)][:, 5:12].detach()
    torch.testing.assert_close(found, rows.softmax(-1) @ torch.from_numpy(image.entries).double(), rtol=1e-6, atol=1e-6)
    groups = spectrum_reconstruction_loss(logits, targets, spectrum, vocab=VOCAB, return_reconstruction=True)
    assert {g: tuple(v.shape) for g, v in groups.items()} == {
        g: (int(((types == VOCAB.type_of_group(g)) & (targets >= 5)).sum()), 3) for g in ("blue", "red")
    }
    red = spectrum_reconstruction_loss(
        logits, targets, spectrum["red"], vocab=VOCAB, group="red", return_reconstruction=True
    )
    torch.testing.assert_close(red, groups["red"])
    values = scalar_reconstruction_loss(
        logits, targets, scalar, vocab=VOCAB, target_types=types, return_reconstruction=True
    )
    chosen = (types >= VOCAB.first_column_type) & (targets >= 5)
    for value, row, kind in zip(values.detach(), logits[chosen].detach(), types[chosen], strict=True):
        column = int(kind) - VOCAB.first_column_type
        n = int(scalar.n_bins[column])
        p = row[VOCAB.base_scalar : VOCAB.base_scalar + n].softmax(0)
        assert float(value) == pytest.approx(
            float(p @ torch.from_numpy(scalar.centers[column, :n]).double()), rel=1e-5, abs=1e-6
        )


def test_losses_of_one_modality_equal_their_term_in_the_combined_loss():
    logits, targets, types = batch(5)
    logits = logits.detach()
    image, spectrum, scalar = books()
    stats = combined_loss(logits, targets, VOCAB, image, spectrum, scalar, ALL, target_types=types)[1]
    assert float(image_reconstruction_loss(logits, targets, image)) == pytest.approx(float(stats["loss_img"]))
    assert float(spectrum_reconstruction_loss(logits, targets, spectrum, vocab=VOCAB)) == pytest.approx(
        float(stats["loss_spec"])
    )
    own = scalar_reconstruction_loss(logits, targets, scalar, vocab=VOCAB, target_types=types)
    assert float(own) == pytest.approx(float(stats["loss_sca"]))


def test_logits_may_be_over_the_block_alone():
    image, _, _ = books()
    logits, targets, _ = batch(6)
    logits = logits.detach()
    whole = image_reconstruction_loss(logits, targets, image)
    assert float(image_reconstruction_loss(logits[..., 5:12], targets - 5, image)) == pytest.approx(float(whole))
    with pytest.raises(ConfigError, match="vocab="):
        scalar_reconstruction_loss(logits, targets, np.arange(6.0))


def test_settings_come_as_mapping_object_or_schema_and_typos_are_refused():
    assert as_loss_config(None) == LossConfig()
    assert as_loss_config({"ce": "block", "ce_balance": "modality"}).ce is CEMode.block
    assert as_loss_config(LossConfig(ce_balance=CEBalance.modality)).ce_balance is CEBalance.modality
    with pytest.raises(ConfigError, match="weight_image"):
        as_loss_config({"weight_imgae": 1.0})


def test_codebooks_that_do_not_fit_are_refused():
    logits, targets, types = batch()
    image, spectrum, scalar = books()
    with pytest.raises(ArtifactError, match="image"):
        combined_loss(logits, targets, VOCAB, np.eye(8), spectrum, scalar, ALL, target_types=types)
    with pytest.raises(ConfigError, match="target_types"):
        combined_loss(logits, targets, VOCAB, image, spectrum, scalar, ALL)
    with pytest.raises(ConfigError, match="green"):
        combined_loss(logits, targets, VOCAB, image, {"green": spectrum["red"]}, scalar, ALL, target_types=types)
    with pytest.raises(ArtifactError, match="finite"):
        combined_loss(logits, targets, VOCAB, image.entries * np.nan, spectrum, scalar, ALL, target_types=types)
