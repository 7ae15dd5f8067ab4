"""The fused loss against the readable one, against plain cross-entropy, and against the products nobody can avoid.

    python benchmarks/loss.py                      # V of about 5 k, 13 k, 68 k; d = 768; many minutes on one core
    python benchmarks/loss.py --quick              # seconds, for a look and for CI
    python benchmarks/loss.py --device cuda --positions 16384 --autocast --compile

Variants, forward and backward, from hidden states (N, D) and head (V, D):

    floor             the three matrix products of a linear head, in chunks, into buffers that exist already
    reference         full logits and the readable loss (``reference.py``): the form of the documents
    careful           full logits too, written for speed: blocks cut out before rows are gathered
    fused             ``fused.py``: the same numbers
    fused block       the same with ``loss.ce=block``: cross-entropy over the known block only (another objective)
    cross_entropy     ``F.cross_entropy`` on full logits: no reconstruction at all; so for the rest
    compiled          ``torch.compile`` of that (with --compile; on the CPU it needs a C++ compiler)
    linear_ce         torch's chunked ``F.linear_cross_entropy``, where this torch has it
    liger, cut_ce     Liger-Kernel's and Apple's kernels, where installed (GPU)

Times: CPU time of one thread (GPU: wall time); variants take turns within a round; medians over rounds, of the
seconds and of the ratios within a round. FLOPs: counted by ``torch.utils.flop_counter`` where it can see them, as
multiples of the floor's 6 N V D. Memory: peak resident size above the inputs, each variant in a process of its own
(CPU), or the allocator's peak (GPU); with the first ``sample_k`` only.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from loss_case import Case, Variant, count_flops

SAME = ("reference", "careful", "fused")  # one loss, computed in three ways
ONCE = ("cross_entropy", "compiled", "linear_ce", "liger", "cut_ce")  # have no reconstruction, so no sample_k


def timed(case: Case, run: Variant, autocast: bool) -> float:
    """Seconds of one forward and backward pass; on the CPU those of this process, not of those it shares with."""
    case.clear()
    clock = time.process_time if case.device == "cpu" else time.perf_counter
    if case.device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    with torch.autocast(case.device, dtype=torch.bfloat16, enabled=autocast):
        run()
    if case.device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def wanted(case: Case, options: argparse.Namespace, first: bool) -> dict[str, Variant]:
    """The variants to measure; those without reconstruction only with the first ``sample_k`` of a vocabulary."""
    found = case.variants(options.compile, options.autocast)
    if options.variants:
        found = {name: run for name, run in found.items() if name in ("floor", "reference", *options.variants)}
    return found if first else {name: run for name, run in found.items() if name not in ONCE}


def measure(case: Case, variants: dict[str, Variant], options: argparse.Namespace) -> tuple[dict, dict]:
    """Seconds per variant and round, the variants taking turns, and counted FLOPs. The first round warms up."""
    flops, values = {}, {}
    for name in list(variants):
        case.clear()
        with torch.autocast(case.device, dtype=torch.bfloat16, enabled=options.autocast):
            try:
                values[name], flops[name] = count_flops(variants[name], seen=name != "compiled")
            except torch._dynamo.exc.BackendCompilerFailed as error:
                print(f"{name}: left out, {str(error).splitlines()[0]}")
                del variants[name]
    found = [float(values[name]) for name in SAME if name in values]
    if max(found) - min(found) > (2e-2 if options.autocast else 1e-4) * max(found):
        raise SystemExit(f"{', '.join(SAME)} should be one loss, but are {found}")
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, run in variants.items():
            times[name].append(timed(case, run, options.autocast))
    return times, flops


def peak_memory(case: Case, name: str, autocast: bool) -> float:
    """MB above the inputs, in this process."""
    run = case.variants(False, autocast)[name]
    if case.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed(case, run, autocast)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
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


def memory_of(name: str, vocab_size: int, positions: int, k: int | None, options: argparse.Namespace) -> float:
    """Peak memory of a variant, in a fresh process."""
    command = [sys.executable, __file__, "--memory-of", name, "--vocab", str(vocab_size), "--device", options.device]
    command += ["--positions", str(options.memory_positions or positions), "--width", str(options.width)]
    command += ["--sample-k", "null" if k is None else str(k), *(["--autocast"] if options.autocast else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(case: Case, times: dict, flops: dict, options: argparse.Namespace, vocab_size: int) -> list[dict[str, Any]]:
    """Print the table of one size; its lines as records."""
    positions, k = len(case.hidden), case.sample_k
    dtype = "bf16" if options.autocast else "float32"
    shown, n_memory = "null" if k is None else k, options.memory_positions or positions
    size = f"V {case.vocab.vocab_size}, {positions} positions, d {options.width}"
    print(f"\n{size}, sample_k {shown}, {case.device}, {dtype}")
    print(f"the floor is {case.floor_flops / 1e9:.0f} GFLOP; memory at {n_memory} positions")
    print(f"{'variant':14} {'seconds':>8} {'of floor':>9} {'speed-up':>9} {'FLOPs':>7} {'GFLOP/s':>8} {'peak MB':>8}")
    records, with_memory = [], k == options.sample_k[0] and not options.no_memory
    for name, seconds in times.items():
        of_floor = median(s / f for s, f in zip(seconds, times["floor"], strict=True))
        speedup = median(r / s for s, r in zip(seconds, times["reference"], strict=True))
        memory = memory_of(name, vocab_size, positions, k, options) if with_memory else float("nan")
        relative, rate = flops[name] / case.floor_flops, flops[name] / median(seconds) / 1e9
        print(
            f"{name:14} {median(seconds):8.3f} {of_floor:8.2f}x {speedup:8.2f}x "
            f"{f'{relative:6.3f}x' if relative else '-':>7} {f'{rate:.0f}' if relative else '-':>8} {memory:8.0f}",
            flush=True,
        )
        records.append(
            {
                "variant": name,
                "vocab": case.vocab.vocab_size,
                "positions": positions,
                "width": options.width,
                "sample_k": k,
                "device": case.device,
                "dtype": dtype,
                "seconds": median(seconds),
                "of_floor": of_floor,
                "speedup": speedup,
                "flops": flops[name],
                "peak_mb": memory if with_memory else None,
                "rounds": seconds,
            }
        )
    return records


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[5000, 13317, 68000])
    parser.add_argument("--positions", type=int, help="default: 2048, and 1024 from a vocabulary of 60 k on")
    parser.add_argument("--memory-positions", type=int, help="positions of the memory figures; default: --positions")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--sample-k", nargs="+", default=["null", "1024", "64", "0"], help="null: every position")
    parser.add_argument("--variants", nargs="+", help="only these, beside floor and reference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--autocast", action="store_true", help="bf16")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of cross-entropy")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small and fast")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.vocab, options.positions, options.width, options.rounds = [2000], 256, 64, 3
        options.sample_k = options.sample_k[:2]
    options.sample_k = [None if k == "null" else int(k) for k in options.sample_k]
    return options


def main() -> None:
    """Print one table per vocabulary and ``sample_k``."""
    options = parse()
    torch.set_num_threads(1)
    if options.memory_of:
        case = Case(options.vocab[0], options.positions, options.width, options.sample_k[0], options.device)
        print(peak_memory(case, options.memory_of, options.autocast))
        return
    records = []
    for vocab_size in options.vocab:
        for number, k in enumerate(options.sample_k):
            positions = options.positions or (2048 if vocab_size < 60_000 else 1024)
            case = Case(vocab_size, positions, options.width, k, options.device)
            times, flops = measure(case, wanted(case, options, number == 0), options)
            records += report(case, times, flops, options, vocab_size)
    if options.json:
        machine = (
            torch.cuda.get_device_name() if options.device != "cpu" else platform.processor() or platform.machine()
        )
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "machine": machine, "records": records}, indent=1)
        )


if __name__ == "__main__":
    main()
