"""The fused loss against the readable one, against plain cross-entropy, and against the products nobody can avoid.

    python benchmarks/loss.py                      # V of about 5 k, 13 k, 53 k; d = 768; minutes on one core
    python benchmarks/loss.py --quick              # seconds, for a look and for CI
    python benchmarks/loss.py --device cuda --positions 16384 --autocast

Variants, forward and backward, from hidden states (N, D) and head (V, D):

    floor             the three matrix products of a linear head, in chunks, into buffers that exist already
    reference         full logits and the readable loss (``reference.py``): the form of the documents
    fused             ``fused.py``: the same numbers
    fused block       the same with ``loss.ce=block``: cross-entropy over the known block only
    cross_entropy     ``F.cross_entropy`` on full logits: no reconstruction at all
    compiled          ``torch.compile`` of that (with --compile)
    linear_ce         torch's chunked ``F.linear_cross_entropy``, where this torch has it
    liger             Liger-Kernel's fused linear cross-entropy, where installed (GPU)

Times: CPU time of one thread (GPU: wall time); variants take turns within a round; medians over rounds, of the
seconds and of the ratios within a round. Memory: peak resident size above the inputs, each variant in a process of
its own (CPU), or the allocator's peak (GPU).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from astromodal.config.schema import CEMode, LossConfig
from astromodal.core.codebook import Codebook, ScalarCodebook
from astromodal.core.vocab import build_vocab_spec
from astromodal.training import fused
from astromodal.training.reference import reference_terms, term_weights, total_of
from astromodal.training.sampling import lay_out, read_targets, weigh
from astromodal.training.standardize import MODALITIES, Codebooks, build_tables

Variant = Callable[[], None]
COLUMNS = tuple(f"column_{i}" for i in range(20))


class Case:
    """Hidden states, head, targets and codebooks of one size."""

    def __init__(self, vocab_size: int, positions: int, width: int, sample_k: int | None, device: str) -> None:
        rng = np.random.default_rng(0)
        codes = min(2048, 2 * vocab_size // 5)  # the documented sizes; larger vocabularies have more groups of spectra
        image, scalar, spectrum = codes, codes // 2, codes
        groups = [f"group_{i}" for i in range(max(1, round((vocab_size - 1.5 * codes) / codes)))]
        self.vocab = build_vocab_spec(image, scalar, spectrum, groups, COLUMNS)
        books = Codebooks(
            Codebook(rng.normal(size=(image, 2))),
            {g: Codebook(rng.normal(size=(spectrum, 64))) for g in groups},
            ScalarCodebook(COLUMNS, np.sort(rng.normal(size=(20, scalar))), np.ones((20, scalar)), [scalar] * 20),
        )
        self.tables = build_tables(self.vocab, books)
        self.sample_k, self.device = sample_k, device
        tokens, types = self._targets(rng, positions)
        self.targets = read_targets(self.tables, tokens, types, tokens > 0)
        self.draws = rng.random(positions)
        self.tokens = torch.as_tensor(tokens, device=device)
        torch.manual_seed(0)
        self.hidden = torch.randn(positions, width, device=device, requires_grad=True)
        self.head = (0.02 * torch.randn(self.vocab.vocab_size, width, device=device)).requires_grad_()

    def _targets(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As in a sequence with everything: 60 % image, 37 % spectra, 3 % scalars."""
        blocks = self.vocab.blocks
        n_groups = len(blocks) - 2
        kinds = rng.choice(len(blocks), n, p=[0.60, 0.03, *[0.37 / n_groups] * n_groups])
        tokens = np.asarray([blocks[k].start for k in kinds]) + rng.integers(0, min(b.size for b in blocks), n)
        types = np.where(kinds == 1, self.vocab.first_column_type + rng.integers(0, len(COLUMNS), n), 1)
        return tokens, types

    def fused(self, ce: CEMode) -> Variant:
        loss = LossConfig(sample_k=self.sample_k, ce=ce)
        weights = weigh(self.targets, loss, self.draws)
        layout = lay_out(self.targets, weights, len(self.tables.blocks), ce)
        entries, n_bins = fused.block_tensors(self.tables)
        entries = [e.float().to(self.device) for e in entries]
        arrays = [self.targets.columns, layout.order, weights.ce.astype("f4"), weights.reconstruction.astype("f4")]
        moved = [torch.as_tensor(a, device=self.device) for a in arrays]
        segments, n_bins = torch.from_numpy(layout.segments), n_bins.to(self.device)
        head = fused.Head.of(self.tables, ce == CEMode.block)
        factors = torch.full((3,), 0.1, device=self.device)

        def run() -> None:
            fused.fused_loss(self.hidden, self.head, self.tokens, *moved, segments, factors, entries, n_bins, head)[
                0
            ].backward()

        return run

    def reference(self) -> Variant:
        loss = LossConfig(sample_k=self.sample_k)
        weights = weigh(self.targets, loss, self.draws)

        def run() -> None:
            logits = self.hidden @ self.head.t()
            terms = reference_terms(logits, self.targets, self.tables, weights, loss.ce)
            assert set(terms) == {"ce", *MODALITIES}
            total_of(terms, term_weights(loss)).backward()

        return run

    def cross_entropy(self, compiled: bool) -> Variant:
        def loss(hidden: torch.Tensor, head: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy((hidden @ head.t()).float(), tokens)

        function = torch.compile(loss) if compiled else loss
        return lambda: function(self.hidden, self.head, self.tokens).backward()

    def linear_ce(self) -> Variant | None:
        function = getattr(F, "linear_cross_entropy", None)
        return None if function is None else lambda: function(self.hidden, self.head, self.tokens).backward()

    def liger(self) -> Variant | None:
        try:
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
        except ImportError:
            return None
        function = LigerFusedLinearCrossEntropyLoss()
        return lambda: function(self.head, self.hidden, self.tokens).backward()

    def floor(self, autocast: bool) -> Variant:
        rows = 512 if self.device == "cpu" else 8192
        dtype = torch.bfloat16 if autocast else torch.float32
        hidden, head = self.hidden.detach().to(dtype), self.head.detach().to(dtype)
        logits = torch.empty(rows, len(head), dtype=dtype, device=self.device)
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head)

        def run() -> None:
            with torch.autocast(self.device, enabled=False):
                for first in range(0, len(hidden), rows):
                    part = hidden[first : first + rows]
                    out = torch.mm(part, head.t(), out=logits[: len(part)])
                    torch.mm(out, head, out=grad_hidden[first : first + rows])
                    grad_head.addmm_(out.t(), part)

        return run

    def variants(self, compiled: bool, autocast: bool) -> dict[str, Variant]:
        found = {
            "floor": self.floor(autocast),
            "reference": self.reference(),
            "fused": self.fused(CEMode.full),
            "fused block": self.fused(CEMode.block),
            "cross_entropy": self.cross_entropy(False),
            "compiled": self.cross_entropy(True) if compiled else None,
            "linear_ce": self.linear_ce(),
            "liger": self.liger() if self.device != "cpu" else None,
        }
        return {name: run for name, run in found.items() if run is not None}

    def clear(self) -> None:
        self.hidden.grad = self.head.grad = None


def timed(case: Case, run: Variant, autocast: bool) -> float:
    """Seconds of one forward and backward pass; on the CPU those of this process, not of those it shares with."""
    case.clear()
    if case.device != "cpu":
        torch.cuda.synchronize()
    clock = time.process_time if case.device == "cpu" else time.perf_counter
    start = clock()
    with torch.autocast(case.device, dtype=torch.bfloat16, enabled=autocast):
        run()
    if case.device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def measure(case: Case, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per variant and round, the variants taking turns."""
    variants = case.variants(options.compile, options.autocast)
    if options.variants:
        variants = {name: run for name, run in variants.items() if name in ("floor", "reference", *options.variants)}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds + 1):
        for name, run in variants.items():
            seconds = timed(case, run, options.autocast)
            if number:  # the first round warms up
                times[name].append(seconds)
    return times


def peak_memory(case: Case, name: str, autocast: bool) -> float:
    """MB above the inputs, in this process."""
    if case.device != "cpu":
        run = case.variants(False, autocast)[name]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed(case, run, autocast)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    run = case.variants(False, autocast)[name]
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # forget the peak of imports and set-up (Linux)
    before = resident_peak()
    timed(case, run, autocast)
    return resident_peak() - before


def resident_peak() -> float:
    """Largest resident size of this process so far, MB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def memory_of(name: str, vocab_size: int, options: argparse.Namespace) -> float:
    """Peak memory of a variant, in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, "--vocab", str(vocab_size), "--device", options.device]
    command += ["--positions", str(options.memory_positions or options.positions), "--width", str(options.width)]
    command += ["--sample-k", str(options.sample_k[0]), *(["--autocast"] if options.autocast else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[5000, 13317, 53000])
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--memory-positions", type=int, help="positions of the memory figures; default: --positions")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--sample-k", nargs="+", default=["4096"], help="numbers, or null for every position")
    parser.add_argument("--variants", nargs="+", help="only these, beside floor and reference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", action="store_true", help="bf16")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of cross-entropy")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small and fast")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.vocab, options.positions, options.width, options.rounds = [2000, 5000], 512, 128, 3
    options.sample_k = [None if str(k) == "null" else int(k) for k in options.sample_k]
    return options


def main() -> None:
    """Print one table per vocabulary and ``sample_k``."""
    options = parse()
    torch.set_num_threads(1)
    if options.memory_of:
        case = Case(options.vocab[0], options.positions, options.width, options.sample_k[0], options.device)
        print(peak_memory(case, options.memory_of, options.autocast))
        return
    record = []
    for vocab_size in options.vocab:
        for k in options.sample_k:
            case = Case(vocab_size, options.positions, options.width, k, options.device)
            times = measure(case, options)
            flops = 6 * options.positions * options.width * case.vocab.vocab_size
            print(f"\nV {case.vocab.vocab_size}, {options.positions} positions, d {options.width}, sample_k {k}, "
                  f"{options.device}, {flops / 1e9:.0f} GFLOP in the products")  # fmt: skip
            print(f"{'variant':15} {'seconds':>9} {'of floor':>9} {'speed-up':>9} {'GFLOP/s':>9} {'peak MB':>9}")
            for name, seconds in times.items():
                of_floor = median(s / f for s, f in zip(seconds, times["floor"], strict=True))
                speedup = median(r / s for s, r in zip(seconds, times["reference"], strict=True))
                memory = float("nan") if options.no_memory else memory_of(name, vocab_size, options)
                print(f"{name:15} {median(seconds):9.4f} {of_floor:8.2f}x {speedup:8.2f}x "
                      f"{flops / median(seconds) / 1e9:9.1f} {memory:9.0f}", flush=True)  # fmt: skip
                record.append({"variant": name, "vocab": case.vocab.vocab_size, "sample_k": k, "peak_mb": memory,
                               "seconds": median(seconds), "of_floor": of_floor, "speedup": speedup})  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
