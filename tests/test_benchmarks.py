"""The benchmarks of loss and training run, count what they claim to count, and compare equals with equals."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was():
    """The benchmarks silence the log of the whole process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark and give it a command line; the thread count is put back."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    n_threads = torch.get_num_threads()

    def load(name: str, *arguments: str):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        return importlib.import_module(name)

    yield load
    torch.set_num_threads(n_threads)


def test_the_loss_benchmark_compares_equals_and_counts_their_products(load, tmp_path, capsys):
    path = tmp_path / "loss.json"
    load("loss", "--quick", "--no-memory", "--device", "cpu", "--sample-k", "null", "0", "--json", str(path)).main()
    records = {(r["variant"], r["sample_k"]): r for r in json.loads(path.read_text())["records"]}
    floor = records["floor", None]
    assert floor["flops"] == 6 * floor["positions"] * floor["width"] * floor["vocab"] and floor["of_floor"] == 1
    for name in ("reference", "careful", "fused", "cross_entropy"):
        assert 1 <= records[name, None]["flops"] / floor["flops"] < 1.2, name
    for name in ("reference", "careful", "fused"):  # without reconstruction only the head's products remain
        assert records[name, 0]["flops"] == floor["flops"], name
    assert records["fused block", None]["flops"] < 0.6 * floor["flops"]
    assert records["reference", 0]["speedup"] == 1 and "fused block" in capsys.readouterr().out


def test_the_loss_benchmark_refuses_to_time_different_losses(load, monkeypatch):
    module = load("loss", "--quick", "--no-memory", "--device", "cpu", "--sample-k", "null")
    monkeypatch.setattr(module.Case, "careful", lambda self: lambda: torch.tensor(1.0))
    with pytest.raises(SystemExit, match="should be one loss"):
        module.main()


def test_peak_memory_of_full_logits_is_above_the_fused_loss(load):
    module = load("loss")
    found = {}
    for name in ("reference", "fused"):
        case = module.Case(5000, 2048, 16, None, "cpu")
        found[name] = module.peak_memory(case, name, False)
    assert found["reference"] > 2048 * 5000 * 4 / 1e6  # at least the logits
    assert found["fused"] < found["reference"] / 2


def test_the_training_benchmark_reports_every_part_and_padding_does_not_matter(load, tmp_path, capsys):
    path = tmp_path / "training.json"
    module = load(
        "training",
        "--quick",
        "--device",
        "cpu",
        "--sections",
        "speed",
        "parts",
        "--dtype",
        "float32",
        "--peak-tflops",
        "1",
        "--json",
        str(path),
    )
    module.main()
    record = json.loads(path.read_text())
    bucketed, mixed = record["padding"]["ce"]
    assert bucketed == pytest.approx(mixed, rel=1e-6)
    assert record["padding"]["BucketSampler"] < 0.5 * record["padding"]["to the longest of a random batch"]
    assert set(record["speed"]) == {f"{name} float32" for name in (*module.DOCUMENTED, "bare", "TrainingLoop")}
    assert record["speed"]["documented float32"]["against_first"] == 1
    parts = record["parts"]["float32"]
    assert all(parts[name] > 0 for name in module.PARTS if name != "rest")
    assert parts["backward"] > parts["logging"] and "tokens/s" in capsys.readouterr().out


def test_flops_per_token_are_what_the_counter_sees(load):
    case, parts = load("training_case"), load("training_parts")
    size = case.Size(32, 2, 2, 2, image_codes=64, image_tokens=64, group_tokens=9)
    vocab = case.build_vocab(size)
    objective = case.build_objective(size, vocab)
    length = 64
    tokens = torch.randint(1, vocab.vocab_size, (2, length))
    types, mask = torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it does not see the CPU's kernel
        objective.model(tokens, types, mask).sum().backward()
    masked_half = 6.0 * size.n_layers * size.d_model * length  # of the attention, which this kernel computes too
    found = counter.get_total_flops() / tokens.numel()
    assert found == parts.flops_per_token(objective.model, length) + masked_half


def test_padding_and_exclusive_times_by_hand(load):
    case, parts = load("training_case"), load("training_parts")
    lengths = np.array([3, 8, 10, 16])
    assert case.padding_of(lengths, [np.array([0, 1]), np.array([2, 3])]) == pytest.approx(1 - 37 / 48)
    assert case.padding_of(lengths, [np.array([0, 1, 2, 3])], width=20) == pytest.approx(1 - 37 / 80)
    now = [0.0]
    timer = parts.Parts(lambda: now[0], lambda: None)

    def spend(seconds: float, inner=lambda: None) -> None:
        now[0] += seconds
        inner()

    timer.within("backward", spend, 2.0, lambda: timer.within("logging", spend, 5.0))
    assert (timer.seconds["backward"], timer.seconds["logging"], timer.calls["backward"]) == (2.0, 5.0, 1)
    assert list(timer.iterate([1, 2], "data")) == [1, 2] and timer.calls["data"] == 3


@pytest.fixture
def stand_in_for_chemomae(monkeypatch):
    """A package of that name which is our own network and trainer: the two sides must then come out alike."""
    import types

    from astromodal.recipes.chemomae.models import ChemoMAE
    from astromodal.recipes.chemomae.training import optim
    from astromodal.recipes.chemomae.training.trainer import Trainer, TrainerConfig

    class Model(ChemoMAE):
        def __init__(self, seq_len, n_patches, n_mask, latent_dim, d_model, num_layers):
            super().__init__(
                seq_len,
                latent_dim,
                n_patches,
                n_mask,
                patch_size=seq_len // n_patches,
                d_model=d_model,
                num_layers=num_layers,
            )

    class Peer(Trainer):
        def __init__(self, model, optimizer, loader, *, scheduler, cfg):
            super().__init__(model, optimizer, loader, scheduler=scheduler, cfg=cfg)
            self.loop.saver.store = None
            names = [name for name, _ in model.named_parameters()]
            self.ema = types.SimpleNamespace(shadow=dict(zip(names, self.loop.ema._shadow, strict=True)))

    def config(out_dir, ema_decay, resume_from, checkpoint_dir, progress, verbose, amp, device):
        return TrainerConfig(out_dir=out_dir, ema_decay=ema_decay, resume_from=resume_from, amp=amp, device=device)

    trainer = types.SimpleNamespace(Trainer=Peer, TrainerConfig=config)
    modules = {
        "chemomae": {},
        "chemomae.models": {"ChemoMAE": Model},
        "chemomae.training": {"optim": optim, "trainer": trainer},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


def test_the_spectrum_benchmark_compares_equals(load, stand_in_for_chemomae, tmp_path, capsys):
    path = tmp_path / "mae.json"
    load("spectrum_mae", "--quick", "--json", str(path)).main()
    (record,) = json.loads(path.read_text())["records"]
    assert record["error"]["astromodal"] == pytest.approx(record["error"]["chemomae"], rel=1e-6)  # the same batches
    assert record["parameters"]["astromodal"] == record["parameters"]["chemomae"] and record["error_of_mean"] > 0
    assert record["error_ratio"] == pytest.approx(1.0, rel=1e-6) and record["speedup"] > 0
    assert "times as fast" in capsys.readouterr().out


def test_the_spectrum_benchmark_runs_without_the_package(load, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "chemomae", None)
    load("spectrum_mae", "--quick", "--epochs", "1").main()
    out = capsys.readouterr().out
    assert "not installed" in out and "times as fast" not in out


def test_the_quantizer_benchmark_compares_equals_and_names_its_targets(load, tmp_path, capsys):
    path = tmp_path / "quantizers.json"
    load("quantizers", "--quick", "--rounds", "1", "--json", str(path)).main()
    found = json.loads(path.read_text())
    records = {(r["name"], r["way"]): r for r in found["records"]}
    for name in ("quantiles", "bins", "assign 2-D", "assign 64-D"):
        assert all(r["figure"] >= 0.9999 for r in found["records"] if r["name"] == name), name
    for name in ("fit 2-D", "fit 64-D"):
        assert records[name, "ours"]["relative"] <= 1.02 and records[name, "MiniBatchKMeans"]["faster_clock"] == 1
    targets = {"fit 2-D": 5, "fit 64-D": 1.7, "assign 2-D": 4, "assign 64-D": 1.2, "quantiles": 6, "bins": 3}
    assert {r["name"]: r["target"] for r in found["records"] if r["target"]} == targets
    errors = [line["distortion_fraction"] for line in found["stages"][1:]]
    assert errors == sorted(errors, reverse=True) and "target 1.2x" in capsys.readouterr().out


def test_tokenizer_experiments_judge_alike_train_once_and_continue(load, tmp_path, capsys):
    work, report = tmp_path / "work", tmp_path / "report"
    few = (
        "data.synthetic.n_fields=2",
        "data.synthetic.n_objects_per_field=40",
        "data.synthetic.image_fraction=0.5",
        "data.synthetic.spectrum_fraction=0.5",
    )
    chosen = ("patches32 km256", "mae32 km256", "mae32 fsq", "ae2 km256")
    arguments = ("--steps", "2", "--problems", "synthetic_desi", "synthetic_image", "--variants", *chosen)
    module = load("tokenizer_experiments", "--work", str(work), "--report", str(report), *arguments, "--override", *few)
    module.main()
    records = {r["variant"]: r for r in map(json.loads, (p.read_text() for p in (work / "results").iterdir()))}
    assert set(records) == set(chosen), capsys.readouterr().out
    figures = {name: record["figures"] for name, record in records.items()}
    for name in ("patches32 km256", "mae32 km256"):  # 2326 pixels in 73 patches
        assert (figures[name]["tokens"], figures[name]["bits"]) == (73, pytest.approx(73 * 8)), name
    assert figures["mae32 fsq"]["bits"] == pytest.approx(73 * np.log2(1000))
    assert figures["ae2 km256"]["bits"] == pytest.approx(576 * 8) and figures["ae2 km256"]["floor"] > 0
    assert all(f["entropy_bits"] <= f["bits"] and f["error"] > 0 and f["encode_ms"] > 0 for f in figures.values())
    # one training for both quantizers, counted for both; none for patches
    assert len(list((work / "networks").iterdir())) == 2 and figures["patches32 km256"]["train_s"] == 0
    assert figures["mae32 fsq"]["train_s"] == figures["mae32 km256"]["train_s"] > 0
    table = (report / "tokenizers_table.md").read_text()
    assert all(f"| {name} |" in table or f"**{name}**" in table for name in chosen)
    assert (report / "tokenizers.png").stat().st_size > 10_000
    written = {p: p.stat().st_mtime_ns for p in (work / "results").iterdir()}
    module.main()
    assert written == {p: p.stat().st_mtime_ns for p in (work / "results").iterdir()}


def test_spectrum_tokens_are_judged_against_the_truth(load, tmp_path, capsys):
    variant = "data.synthetic.n_objects_per_field=60 tokenizer.spectrum.quantizer.n_codes=16"
    load("spectrum_tokens", "--work", str(tmp_path), "--fields", "1", "--variant", variant).main()
    figures = json.loads((tmp_path / "synthetic_0.json").read_text())["figures"]
    assert figures["costs"]["tokens"] == 250 and figures["redshifts"]["galaxy"]["n"] > 0
    everything = figures["pixels"][-1]
    assert everything["error_over_noise"] > 0.05 and everything["chi2_pooled"] > 0.9
    assert f"| {variant} | 250 |" in capsys.readouterr().out


def test_image_tokens_are_judged_against_the_truth(load, tmp_path, capsys):
    variant = (
        "tokenizer.image.codec.width=8 tokenizer.image.codec.training.epochs=1 tokenizer.image.quantizer.n_codes=8"
    )
    load("image_tokens", "--work", str(tmp_path), "--objects", "32", "--variant", variant).main()
    figures = json.loads((tmp_path / "synthetic_0.json").read_text())["figures"]
    data, decoded = figures["data to truth"], figures["decoded to truth"]
    assert 0.5 < data["flux_within"] < 0.8, "the data are within their errors of the truth as often as noise is"
    assert all(0.7 < data["by_snr"][-1][name]["scatter"] < 1.4 for name in ("flux", "position", "ellipticity", "size"))
    assert decoded["flux_within"] < 0.7 and decoded["by_snr"][-1]["size"]["scatter"] > 2, "hardly trained"
    assert f"| {variant} | truth | {decoded['flux_within']:.3f} |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_network_of_a_tokenizer_experiment_is_that_of_a_full_fit(load, tmp_path):
    module = load("tokenizer_experiments")
    network, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)

    def train(network):
        network.weight.data.fill_(3.0)
        return {"steps": 1}

    overrides = ("tokenizer.image.codec.width=8", "seed=0", "tokenizer.image.quantizer.n_codes=4")
    assert module.Once(tmp_path, overrides).wrap(train)(network) == {"steps": 1}
    again = module.Once(tmp_path, (*overrides[:2], "tokenizer.image.quantizer.n_codes=8"))
    assert again.wrap(lambda network: pytest.fail("trained again"))(other) == {"steps": 1}
    assert (other.weight == 3).all() and (other.bias == network.bias).all() and again.parameters == 3
    trained = []
    module.Once(tmp_path, (*overrides[:1], "seed=1")).wrap(lambda network: trained.append(1) or {})(other)
    assert trained, "another seed is another network"


def test_the_benchmark_of_waiting_threads_trains_when_told_to(load, monkeypatch, capsys):
    module = load("waiting_threads")
    monkeypatch.setattr(sys, "stdin", ["1\n", "2\n"])
    module.train(16, 1)
    assert all(float(line) > 0 for line in capsys.readouterr().out.split())
    found = module.settings([5])
    assert found["spins 5"]["GOMP_SPINCOUNT"] == "5" and f"spins {module.SPINS}" in found
    with module.busy(1):
        pass


def test_the_sources_benchmark_reads_the_same_spectra_in_every_way(load, monkeypatch, capsys):
    module = load("sources")
    ratios = module.measure(n_rows=8, repeats=1)
    assert set(ratios) == {"lists", "struct of lists", "list of structs", "part files", "FITS table"}
    assert all(ratio > 0 for ratio in ratios.values()) and "Arrow holds" in capsys.readouterr().out
    monkeypatch.setattr(module, "by_arrow", lambda *_: 1.0)
    with pytest.raises(SystemExit, match="other values"):
        module.measure(n_rows=8, repeats=1)


def test_the_cubes_benchmark_reads_the_same_pixels_as_astropy(load, monkeypatch, capsys):
    module = load("cubes")
    ratios = module.measure(side=120, n_cutouts=3, n_spectra=4, repeats=1)
    assert set(ratios) == {"mapped", "compressed", "spectra"} and "ratio" in capsys.readouterr().out
    monkeypatch.setattr(module, "spectra_by_us", lambda *_: 1e9)
    with pytest.raises(SystemExit, match="spectra: other values"):
        module.measure(side=120, n_cutouts=3, n_spectra=4, repeats=1)
