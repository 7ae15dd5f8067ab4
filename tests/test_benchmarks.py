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
    module = load("training", "--quick", "--device", "cpu", "--sections", "speed", "parts", "--dtype", "float32",
                  "--peak-tflops", "1", "--json", str(path))  # fmt: skip
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
