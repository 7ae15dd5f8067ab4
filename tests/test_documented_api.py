"""The Python examples of the two documents that the program implements run as written there.

Only paths, and sizes that would be slow, differ. Codebooks come from files that the real tokenizers wrote.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from astromodal import stages
from astromodal.core import load_codebook, load_npz_key
from astromodal.core.vocab import PAD
from tests.tiny_survey import configuration, undrawn, write_survey

SIZES = (
    "tokenizer.scalar.n_bins=16",
    "tokenizer.spectrum.quantizer.n_codes=32",
    "tokenizer.image.quantizer.n_codes=24",
    "model=tiny",
    "model.d_model=32",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_ff=64",
    "model.max_len=128",
)
TOKENIZERS = "artifacts/synthetic/default/tokenizers"

pytestmark = [
    pytest.mark.filterwarnings("ignore:device='cuda', but there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:bin centres of several columns"),
]


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A folder in which train_tokenizers.py has run."""
    folder = tmp_path_factory.mktemp("documented")
    write_survey(folder)
    with undrawn(folder):
        stages.train_tokenizers(configuration("train_tokenizers", folder))
    return folder


@pytest.fixture
def here(survey, monkeypatch):
    monkeypatch.chdir(survey)
    return survey


@pytest.fixture
def config():
    from astromodal.config import load_config

    return load_config(overrides=list(SIZES))


@pytest.fixture
def vocab(config):
    from astromodal.core import build_vocab_spec

    return build_vocab_spec(
        v_image=config.vocab.image,
        v_scalar=config.vocab.scalar,
        v_spectra=config.vocab.spectrum,
    )


@pytest.fixture
def codebooks(here):
    """As in "Loading Codebooks"."""
    from src.astromodal.core.io import load_codebook, load_npz_key

    img_codebook = load_codebook(
        f"{TOKENIZERS}/codecs/codebook_kmeans_24.joblib",
        key_candidates=("centroids", "codebook", "centers"),
    )
    spec_codebook = load_npz_key(
        f"{TOKENIZERS}/spectrum_tokenizers/spectrum_tokenizer_config.npz",
        key_candidates=("centroids", "codebook", "centers"),
    )
    sca_centers = load_npz_key(
        f"{TOKENIZERS}/scalar_tokenizers/scalar_tokenizer_config.npz",
        key_candidates=("bin_centers", "centers", "quantile_centers"),
    )
    return img_codebook, spec_codebook, sca_centers


def make_model(vocab):
    """The documented model with small sizes."""
    from src.astromodal.models import CausalTransformerLM

    return CausalTransformerLM(
        vocab_size=vocab.vocab_size,
        n_types=20,
        d_model=32,
        n_layers=2,
        n_heads=2,
        d_ff=64,
        dropout=0.1,
        max_len=128,
    )


def make_loader(vocab, n: int = 4, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Batches of objects with image, scalars and spectra; codes that every codebook of the tiny survey has."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(n):
        parts, types = [np.full((4, 1), 1)], [0]
        wanted = [("image", 6, 1), *((g, 3, vocab.type_of_group(g)) for g in vocab.spectrum_groups), ("scalar", 1, 8)]
        for name, length, kind in wanted:
            start = vocab.block(name).start
            parts.append(rng.integers(start, start + 6, (4, length)))
            types += [kind] * length
        tokens = np.concatenate(parts, 1)
        mask = np.ones(tokens.shape, dtype=bool)
        mask[0, -4:] = False
        tokens[~mask] = PAD
        tensors = tokens, np.where(mask, types, 0), mask
        batches.append(dict(zip(("tokens", "types", "attn_mask"), map(torch.from_numpy, tensors), strict=True)))
    return batches


# ------------------------------------------------------------------------------------ seeds: training


def test_basic_training_with_the_trainer_class(codebooks, config, vocab, tmp_path):
    from src.astromodal.core import build_vocab_spec
    from src.astromodal.training import Trainer, configure_cuda_performance, set_seed

    set_seed(config.training.seed)
    configure_cuda_performance()
    assert vocab == build_vocab_spec(
        v_image=config.vocab.image,
        v_scalar=config.vocab.scalar,
        v_spectra=config.vocab.spectrum,
    )
    img_codebook, spec_codebook, sca_centers = codebooks
    model = make_model(vocab)
    train_loader = make_loader(vocab)
    before = [parameter.clone() for parameter in model.parameters()]
    trainer = Trainer(
        model=model,
        vocab=vocab,
        train_loader=train_loader,
        config=config.training,
        image_codebook=img_codebook,
        spectrum_codebook=spec_codebook,
        scalar_centers=sca_centers,
        device="cuda",
        output_dir=tmp_path / "runs/experiment_001",
        use_amp=True,
        use_ce=True,
        compile_model=False,
    )
    trainer.train(num_epochs=10)
    assert trainer.global_step == 10 * len(train_loader)
    assert any(not torch.equal(a, b.cpu()) for a, b in zip(before, model.parameters(), strict=True))


def test_load_config_without_arguments_composes_in_a_checkout(repo):
    code = """
        from src.astromodal.config import load_config
        config = load_config()
        assert config.training.seed == 0 and config.training.learning_rate == 0.0002
        assert (config.vocab.image, config.vocab.scalar, config.vocab.spectrum) == (2048, 1024, 2048)
        from astromodal.config import load_config as same
        assert same is load_config
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=repo, check=True, env=environment)


def test_codebooks_have_the_documented_shapes(codebooks, survey):
    img_codebook, spec_codebook, sca_centers = codebooks
    assert img_codebook.shape == (24, 2)  # (V_IMAGE, D_img)
    assert sca_centers.shape[0] == 8  # a row per column: 3 of the catalogue, the scale of each group
    assert spec_codebook.shape[0] == 5  # a codebook per group
    for group, book in zip(("desi_b", "desi_r", "desi_z", "gaiaxp_bp", "gaiaxp_rp"), spec_codebook, strict=True):
        own = load_codebook(survey / TOKENIZERS / f"spectrum_tokenizers/spectrum_kmeans_{group}.joblib")
        assert np.array_equal(book[: len(own), : own.shape[1]], own)
        assert not book[len(own) :].any() and not book[:, own.shape[1] :].any()


@pytest.mark.parametrize("size", [32, 40])
def test_stacked_codebooks_give_the_loss_of_the_mapping(codebooks, survey, size):
    from astromodal.core import build_vocab_spec
    from astromodal.training import combined_loss

    vocab = build_vocab_spec(24, 16, size)  # 40: blocks larger than the codebooks
    folder = survey / TOKENIZERS / "spectrum_tokenizers"
    mapping = {g: load_codebook(folder / f"spectrum_kmeans_{g}.joblib") for g in vocab.spectrum_groups}
    mapping["desi_r"] = mapping["desi_r"][:20]  # codebooks of different sizes
    stack = codebooks[1].copy()
    stack[1, 20:] = 0.0
    y = torch.cat([batch["tokens"] for batch in make_loader(vocab)])
    logits = torch.randn(*y.shape, vocab.vocab_size, generator=torch.Generator().manual_seed(0))
    losses = [
        combined_loss(logits, y, vocab, codebooks[0], spectra, None, {"sample_k": None})[1]["loss_spec"]
        for spectra in (mapping, stack)
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6) and losses[0] > 0


def test_a_single_group_is_stored_without_a_stack(survey, tmp_path):
    from astromodal.tokenizers import SpectrumTokenizer

    tokenizer = SpectrumTokenizer.load(survey / TOKENIZERS / "spectrum_tokenizers")
    tokenizer.codecs = {"desi_b": tokenizer.codecs["desi_b"]}
    tokenizer._write(tmp_path)
    book = load_npz_key(tmp_path / "spectrum_tokenizer_config.npz", ("centroids", "codebook", "centers"))
    assert np.array_equal(book, tokenizer.codebooks()["desi_b"].entries)


def test_custom_training_loop(codebooks, vocab, capsys):
    from src.astromodal.training.losses import combined_loss

    img_codebook, spec_codebook, sca_centers = codebooks
    device = "cpu"
    model = make_model(vocab)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train_loader = make_loader(vocab)
    for batch in train_loader:
        tokens = batch["tokens"].to(device)
        types = batch["types"].to(device)
        attn_mask = batch["attn_mask"].to(device)

        x = tokens[:, :-1]
        x_types = types[:, :-1]
        x_mask = attn_mask[:, :-1]
        y = tokens[:, 1:]

        logits = model(x, x_types, x_mask)

        loss, stats = combined_loss(
            logits=logits,
            targets=y,
            vocab=vocab,
            image_codebook=img_codebook,
            spectrum_codebook=spec_codebook,
            scalar_centers=sca_centers,
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
        optimizer.step()
        optimizer.zero_grad()

        print(
            f"Loss: {stats['loss_ce']:.4f}, "
            f"Img: {stats['loss_img']:.4f}, "
            f"Sca: {stats['loss_sca']:.4f}, "
            f"Spec: {stats['loss_spec']:.4f}"
        )
        parts = stats["loss_img"] + stats["loss_sca"] + stats["loss_spec"]
        assert loss.item() == pytest.approx(float(stats["loss_ce"] + 0.1 * parts), rel=1e-5)
        assert all(stats[f"loss_{name}"] > 0 for name in ("img", "sca", "spec"))
    assert capsys.readouterr().out.count("Spec: ") == len(train_loader)


def test_bin_centres_of_several_columns_without_types_warn_and_stay_close_to_a_single_column():
    from astromodal.core import build_vocab_spec
    from astromodal.training import combined_loss

    vocab = build_vocab_spec(4, 6, 4, spectrum_groups=("xp",))
    y = torch.randint(vocab.base_scalar, vocab.base_scalar + 6, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(2, 9, vocab.vocab_size, generator=torch.Generator().manual_seed(1))
    one = np.array([-2.0, -1.0, 0.5, 1.0, 2.0, 4.0])
    with pytest.warns(UserWarning, match="target_types"):
        _, several = combined_loss(logits, y, vocab, None, None, np.stack([one, 10 * one + 3]), {"sample_k": None})
    _, single = combined_loss(logits, y, vocab, None, None, one, {"sample_k": None})
    assert float(several["loss_sca"]) == pytest.approx(float(single["loss_sca"]), rel=1e-5)  # standardised, the same


def test_padding_of_columns_with_fewer_bins_is_never_a_bin():
    from astromodal.core import build_vocab_spec
    from astromodal.training import scalar_reconstruction_loss

    vocab = build_vocab_spec(4, 4, 4, spectrum_groups=("xp",), scalar_columns=("a", "b"))
    centers = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 7.0, 0.0, 0.0]])
    y = torch.full((1, 1), vocab.base_scalar)
    types = torch.full((1, 1), vocab.type_of_column("b"))
    value = scalar_reconstruction_loss(
        torch.zeros(1, 1, vocab.vocab_size), y, centers, vocab=vocab, target_types=types, return_reconstruction=True
    )
    assert float(value) == pytest.approx(6.0)


DOCUMENTED_YAML = """
training:
  seed: 0
  batch_size: 16
  epochs: 5
  learning_rate: 0.0002
  weight_decay: 0.05
  warmup_steps: 2000
  grad_clip: 1.0
  grad_accum_steps: 1
  num_workers: 4
  pin_memory: true
  persistent_workers: true
  prefetch_factor: 2
  log_every: 50
  save_every_steps: 5000

  meaningful_loss:
    enabled: true
    sample_k_per_modality: 4096
    weight_image: 0.1
    weight_scalar: 0.1
    weight_spectrum: 0.1
"""


def test_the_training_section_is_a_configuration_file(tmp_path):
    from astromodal.config import load_config

    file = tmp_path / "config.yaml"
    file.write_text(DOCUMENTED_YAML.replace("weight_image: 0.1", "weight_image: 0.3").replace("4096", "64"))
    config = load_config(file)
    assert config.training.num_workers == 4 and config.training.save_every_steps == config.training.save_every == 5000
    assert config.loss.weight_image == config.training.meaningful_loss.weight_image == 0.3
    assert config.loss.sample_k == config.training.meaningful_loss.sample_k_per_modality == 64


def test_the_sections_of_the_usage_guide_are_a_configuration_file(tmp_path):
    from astromodal.config import load_config

    file = tmp_path / "my_config.yaml"
    file.write_text(
        'paths:\n  datacube_template: "/cubes/datacube_{field}.parquet"\n  output_dir: "runs_tokens_transformer"\n'
        "tokenizers:\n  scalar:\n    n_bins: 1024\n  spectrum:\n    codebook_size: 2048\n  image:\n    latent_dim: 2\n"
        "model:\n  d_model: 768\n  n_layers: 12\n  n_heads: 12\n  d_ff: 3072\n  dropout: 0.1\n"
        "training:\n  batch_size: 32\n  learning_rate: 0.0001\n  use_amp: true\n"
        "  meaningful_loss:\n    enabled: true\n    weight_image: 0.2\n"
    )
    config = load_config(file)
    assert config.paths.datacube_template == "/cubes/datacube_{field}.parquet"
    assert config.paths.output_dir == config.paths.runs == "runs_tokens_transformer"
    assert (config.model.d_model, config.training.learning_rate, config.loss.weight_image) == (768, 1e-4, 0.2)
    assert config.training.use_amp is True
    file.write_text("training:\n  use_amp: false\n")
    config = load_config(file)
    assert config.training.use_amp is False and config.hardware.precision == "float32"


def test_learning_rate_schedule():
    from src.astromodal.training.utils import cosine_schedule_with_warmup

    def at(global_step):
        return cosine_schedule_with_warmup(
            step=global_step,
            base_lr=2e-4,
            warmup_steps=2000,
            total_steps=200_000,
            min_lr_ratio=0.1,
        )

    assert at(0) == 0 and at(1000) == pytest.approx(1e-4) and at(2000) == pytest.approx(2e-4)
    assert at(200_000) == pytest.approx(2e-5)
    half = 2e-4 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert at(101_000) == pytest.approx(half)


def test_mixed_precision_by_hand(codebooks, vocab):
    from src.astromodal.training.losses import combined_loss
    from src.astromodal.training.utils import configure_cuda_performance

    configure_cuda_performance()
    model, batch = make_model(vocab), make_loader(vocab)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    use_amp = torch.cuda.is_available()
    scaler = torch.amp.GradScaler("cuda", enabled=use_amp)
    x, x_types, x_mask = (batch[key][:, :-1] for key in ("tokens", "types", "attn_mask"))
    y = batch["tokens"][:, 1:]

    def compute_loss(logits, y):
        return combined_loss(logits, y, vocab, *codebooks)[0]

    before = model.head_weight.detach().clone()
    with torch.amp.autocast("cuda", enabled=use_amp):
        logits = model(x, x_types, x_mask)
        loss = compute_loss(logits, y)

    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, model.head_weight)


@pytest.fixture
def arguments(codebooks, config, vocab):
    """What stands for ``...`` in ``Trainer(...)``."""
    config.training.save_every_steps, config.training.warmup_steps, config.training.epochs = 4, 2, 3
    return {
        "model": make_model(vocab),
        "vocab": vocab,
        "train_loader": make_loader(vocab),
        "config": config.training,
        "image_codebook": codebooks[0],
        "spectrum_codebook": codebooks[1],
        "scalar_centers": codebooks[2],
    }


def test_torch_compile_is_a_switch(arguments, monkeypatch):
    from astromodal.training import Trainer

    compiled = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(f) or real(f, backend="eager"))
    trainer = Trainer(
        **arguments,
        compile_model=True,  # Use torch.compile for extra speed
    )
    trainer.train(num_epochs=1)
    assert len(compiled) == 1 and trainer.global_step == 4


def test_training_with_the_reconstruction_loss_only(arguments):
    from astromodal.training import Trainer

    trainer = Trainer(
        **arguments,
        use_ce=False,  # Only use meaningful reconstruction loss
    )
    stats = trainer.evaluate(arguments["train_loader"])
    parts = stats["loss_img"] + stats["loss_sca"] + stats["loss_spec"]
    assert stats["loss_total"] == pytest.approx(0.1 * parts) and stats["loss_ce"] > 0
    trainer.train(num_epochs=1)


def test_checkpoints_hold_what_is_documented_and_a_run_goes_on_from_one(arguments, vocab, config, tmp_path):
    from astromodal.training import Trainer

    run = tmp_path / "runs/experiment_001"
    whole = Trainer(**arguments, output_dir=run)
    whole.train()
    assert whole.global_step == 12
    checkpoint = torch.load(run / "checkpoints/step_00000008.pt", weights_only=True)
    assert {"model", "optimizer", "scaler", "global_step", "epoch", "config"} <= set(checkpoint)
    documented = {name: getattr(vocab, name) for name in ("vocab_size", "base_image", "base_scalar", "base_spectrum")}
    assert documented.items() <= checkpoint["config"].items()
    assert checkpoint["config"]["loss_config"]["weight_image"] == 0.1 and checkpoint["global_step"] == 8

    trainer = Trainer(**arguments | {"model": make_model(vocab)})
    trainer.load_checkpoint(f"{run}/ckpt_step_00000008.pt")
    assert trainer.global_step == 8
    trainer.train()  # Continues from loaded step
    assert trainer.global_step == 12
    for a, b in zip(whole.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_evaluation(arguments, vocab, capsys):
    from astromodal.training import Trainer

    trainer, val_loader = Trainer(**arguments), make_loader(vocab, 2, seed=9)
    val_stats = trainer.evaluate(val_loader)
    print(f"Validation loss: {val_stats['loss_total']:.4f}")
    print(f"Validation CE: {val_stats['loss_ce']:.4f}")
    print(f"Validation img: {val_stats['loss_img']:.4f}")
    untrained = math.log(vocab.vocab_size)
    assert val_stats["loss_ce"] == pytest.approx(untrained, rel=0.1)
    assert capsys.readouterr().out.count("Validation") == 3


class AnyModel(nn.Module):
    """The documented interface and nothing more."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.token, self.kind, self.head = nn.Embedding(n, 16), nn.Embedding(20, 16), nn.Linear(16, n)

    def forward(self, tokens, types, attn_mask):
        return self.head(self.token(tokens) + self.kind(types)) * attn_mask[..., None]


def test_any_model_with_the_documented_interface_trains(arguments, vocab):
    from astromodal.training import Trainer

    trainer = Trainer(**arguments | {"model": AnyModel(vocab.vocab_size)})
    before = trainer.evaluate(arguments["train_loader"])["loss_total"]
    trainer.train(num_epochs=20)
    assert trainer.evaluate(arguments["train_loader"])["loss_total"] < before


# --------------------------------------------------------------------------------------- seeds: usage


def test_the_version_answers():
    import astromodal

    assert f"astromodal v{astromodal.__version__} installed".startswith("astromodal v0.")


def test_load_and_use_for_inference(arguments, codebooks, vocab, tmp_path, monkeypatch):
    from astromodal.config import load_config
    from astromodal.core import build_vocab_spec
    from astromodal.models import CausalTransformerLM
    from astromodal.training import Trainer

    config = load_config(overrides=list(SIZES))
    vocab_spec = build_vocab_spec(
        v_image=config.vocab.image,
        v_scalar=config.vocab.scalar,
        v_spectra=config.vocab.spectrum,
        spectrum_groups=config.tokenizers.spectrum.groups,
    )
    assert vocab_spec.vocab_size == vocab.vocab_size

    def make():
        return CausalTransformerLM(
            vocab_size=vocab_spec.vocab_size,
            d_model=config.model.d_model,
            n_layers=config.model.n_layers,
            n_heads=config.model.n_heads,
            d_ff=config.model.d_ff,
            dropout=config.model.dropout,
            max_seq_len=config.sequences.max_seq_len,
        )

    monkeypatch.chdir(tmp_path)
    trained = Trainer(**arguments | {"model": make()}, output_dir="runs_tokens_transformer")
    trained.train(num_epochs=1)

    model = make()
    checkpoint = torch.load("runs_tokens_transformer/final_model.pt")
    model.load_state_dict(checkpoint["model_state_dict"])
    model.eval()

    image_codebook, _, _ = codebooks
    batch = arguments["train_loader"][0]
    token_ids, token_types, key_padding_mask = (batch[key][:, :-1] for key in ("tokens", "types", "attn_mask"))
    target_tokens = batch["tokens"][:, 1:]
    with torch.no_grad():
        logits = model(token_ids, token_types, key_padding_mask)

        from astromodal.training import image_reconstruction_loss, scalar_reconstruction_loss

        reconstructed_latents = image_reconstruction_loss(
            logits, target_tokens, image_codebook, return_reconstruction=True
        )
        scalar_loss = scalar_reconstruction_loss(logits, target_tokens, np.linspace(-1, 1, 16), vocab=vocab_spec)

    # the documented formula, by hand
    image_positions = (target_tokens >= vocab.base_image) & (target_tokens < vocab.base_scalar)
    logits_image = logits[image_positions][:, vocab.base_image : vocab.base_image + len(image_codebook)]
    probs = torch.softmax(logits_image, dim=-1)
    expected_centroid = probs @ torch.from_numpy(image_codebook)
    assert reconstructed_latents.shape == (int(image_positions.sum()), 2)
    assert torch.allclose(reconstructed_latents, expected_centroid, atol=1e-5)
    assert float(scalar_loss) > 0


# -------------------------------------------------------------------------------------- installation


CHECK = (
    "import astromodal; from astromodal.config import load_config; "
    "from astromodal.config.reading.conf_files import conf_dir; load_config(); "
    "print(astromodal.__version__, astromodal.__file__, conf_dir())"
)


@pytest.fixture
def checkout(repo, tmp_path):
    """A copy of what is packaged, because building leaves files behind."""
    copy = tmp_path / "checkout"
    for name in ("src", "conf"):
        shutil.copytree(repo / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "local"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, copy / name)
    return copy


def _ask(python: str, folder, *places) -> list[str]:
    """Version, file and conf/ of the package that ``python`` finds when it is started in ``folder``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    result = subprocess.run(
        [python, "-c", CHECK], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def test_packages_that_are_listed_by_hand_are_all_listed(repo):
    listed = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["setuptools"].get("packages")
    if not isinstance(listed, list):
        pytest.skip("pyproject.toml does not list packages by hand")
    source = repo / "src"
    found = {str(p.parent.relative_to(source)).replace(os.sep, ".") for p in source.glob("astromodal/**/__init__.py")}
    assert set(listed) == found | {"astromodal.conf", "hydra_plugins"}


@pytest.mark.slow
def test_an_installed_package_brings_its_configuration(checkout, tmp_path):
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(checkout)]
    subprocess.run(install, check=True, cwd=tmp_path)
    version, file, conf = _ask(sys.executable, tmp_path, target)
    assert version.startswith("0.") and file.startswith(str(target)) and conf.startswith(str(target))
    source = checkout / "src/astromodal"
    installed = {p.relative_to(target / "astromodal") for p in (target / "astromodal").glob("**/*.py")}
    assert installed == {p.relative_to(source) for p in source.glob("**/*.py")}
    assert len(list(Path(conf).glob("**/*.yaml"))) == len(list((checkout / "conf").glob("**/*.yaml")))


@pytest.mark.slow
def test_an_editable_install_answers_from_anywhere(checkout, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv/bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-e", str(checkout)], check=True, cwd=tmp_path)
    libraries = (
        tmp_path / "libraries"
    )  # so that nothing has to be downloaded again, without an editable install of ours
    libraries.mkdir()
    for path in Path(np.__file__).parents[1].iterdir():
        if "astromodal" not in path.name:
            (libraries / path.name).symlink_to(path)
    _, file, conf = _ask(python, tmp_path, libraries)
    assert Path(file) == checkout / "src/astromodal/__init__.py" and Path(conf) == checkout / "conf"
