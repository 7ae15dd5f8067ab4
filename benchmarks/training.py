"""Training: tokens per second, where the time goes, and what the loop and the documents' form of it cost.

    python benchmarks/training.py                      # d 384, 4 layers, L 1024, V 13 k; many minutes on one core
    python benchmarks/training.py --quick              # seconds, for a look and for CI
    python benchmarks/training.py --device cuda --batch 64 --dtype bf16 --compile

Sections (``--sections``):

    speed     one process, variants in turn, over the same sequences: the loop as the documents sketch it (torch's
              encoder with causal and padding mask on sequences padded to L, full logits, ``combined_loss``, four
              ``.item()`` per step), with one vector of scalar centres for all columns ("documented"), with each
              column's own, which is the loss of the program, and with plain cross-entropy only; a bare loop of
              forward, backward and step with this program's model and loss; and :class:`TrainingLoop`. The last two
              in batches of similar length
    parts     share of time in data, forward, backward, optimizer, logging, checkpointing and gradient ledger;
              what happens every so many steps is measured at every step and divided by its default period
    overhead  what the loop adds to a small model whose steps take milliseconds

Times: CPU time of one thread (GPU: wall time), medians over rounds of the ratios within a round; the overhead in wall
time. Tokens are real ones: padding does not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from training_case import (
    Size,
    SketchedLoop,
    build_objective,
    build_vocab,
    chosen_batches,
    padded_batch,
    padding_of,
    write_sequences,
)
from training_overhead import overhead
from training_parts import PARTS, flops_per_token, measure_parts, peak_flops, product_rate

from astromodal.config.schema import HardwareConfig, LossConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from astromodal.language_model.gradient_shares import ledger_of
from astromodal.runs.tracking import Tracker
from astromodal.sequences import BucketSampler, SequenceDataset
from astromodal.training.loop import TrainingLoop
from astromodal.training.validation import to_device

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
DOCUMENTED = {"documented": "shared", "documented, own centres": "columns", "documented, CE only": "ce"}
QUICK = Size(32, 2, 2, batch_size=4, image_codes=64, image_tokens=64, group_tokens=9)


class FixedBatches:
    """A loader of the same few batches, gathered from the files each time."""

    def __init__(self, dataset: SequenceDataset, rows: list[np.ndarray]) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict]:
        return (self.dataset.gather(rows, 0) for rows in self.rows)


class Bench:
    """Sequences, batches and clock of one run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.device = options, options.device
        self.size = QUICK if options.quick else Size(batch_size=options.batch, dropout=options.dropout)
        self.clock = time.process_time if self.device == "cpu" else time.perf_counter
        self.vocab = build_vocab(self.size)
        n = 256 if options.quick else max(2048, 2 * options.batches * options.batch)
        self.dataset = write_sequences(folder / "sequences", self.size, self.vocab, n)
        self.lengths = np.asarray(self.dataset.lengths)
        self.rows = chosen_batches(self.dataset, self.size, options.batches)
        together = np.random.default_rng(1).permutation(np.concatenate(self.rows))
        self.mixed = np.split(together, options.batches)  # the same sequences, as a plain shuffle deals them
        self.n_tokens = int(self.lengths[together].sum())
        self.folder, self.record = folder, {}

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def timed(self, function: Callable[[], Any]) -> float:
        self.wait()
        begin = self.clock()
        function()
        self.wait()
        return self.clock() - begin

    def make_loop(self, dtype: str, objective: Any, loader: Any, callbacks: list, folder: Path | None) -> TrainingLoop:
        return TrainingLoop(
            objective,
            loader,
            callbacks=callbacks,
            output_dir=folder,
            tracker=None if folder is None else Tracker(folder),
            # Checkpoints are written in the foreground here, so that all of their cost is seen.
            training=TrainingConfig(epochs=1, log_every=1 if folder else 50, save_every=None, checkpoint_async=False),
            optimizer=OptimizerConfig(),
            schedule=ScheduleConfig(warmup_steps=1),
            hardware=HardwareConfig(device=self.device, precision=dtype, compile=self.options.compile, n_threads=1),
        )

    # ----------------------------------------------------------------------------------- sections

    def padding(self) -> None:
        """Print the padding of three ways to make batches, and that the result does not depend on which."""
        shuffled = np.random.default_rng(2).permutation(len(self.lengths))
        shuffled = np.array_split(shuffled, len(shuffled) // self.size.batch_size)
        found = {
            f"padded to {self.size.length}": padding_of(self.lengths, shuffled, self.size.length),
            "to the longest of a random batch": padding_of(self.lengths, shuffled),
            "BucketSampler": padding_of(self.lengths, BucketSampler(self.dataset.lengths, self.size.batch_size)),
        }
        print(
            f"{len(self.lengths)} sequences of {self.lengths.min()} to {self.lengths.max()} tokens; padding: "
            + ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.items())
        )
        objective = build_objective(self.size, self.vocab).to(self.device).eval()
        losses = []
        for rows in (self.rows, self.mixed):
            pairs = [objective.evaluate(self.on_device(self.dataset.gather(r, 0)))["ce"] for r in rows]
            losses.append(float(sum(p[0] for p in pairs)) / float(sum(p[1] for p in pairs)))
        print(f"cross-entropy of the same sequences: bucketed {losses[0]:.9f}, mixed {losses[1]:.9f}")
        self.record["padding"] = found | {"ce": losses}

    def on_device(self, batch: dict) -> dict:
        return to_device(batch, torch.device(self.device))

    def speed(self) -> None:
        """Print seconds and tokens per second of each variant."""
        variants: dict[str, Callable[[], float]] = {}
        for dtype in self.options.dtype:
            bf16 = dtype == "bf16"
            for name, loss in DOCUMENTED.items() if dtype == self.options.dtype[0] else list(DOCUMENTED.items())[:1]:
                loop = SketchedLoop(self.size, self.vocab, self.device, bf16, loss)
                variants[f"{name} {dtype}"] = partial(self.sketched, loop)
            objective = build_objective(self.size, self.vocab, LossConfig(ledger_every=None)).to(self.device)
            variants[f"bare {dtype}"] = partial(self.bare, objective, dtype)
            variants[f"TrainingLoop {dtype}"] = partial(self.looped, objective, dtype)
        times: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(self.options.rounds + 1):
            for name, run in variants.items():
                seconds = run()
                if number:  # the first round warms up
                    times[name].append(seconds)
        self.report_speed(times, flops_per_token(objective.model, float(self.lengths.mean())))

    def sketched(self, loop: SketchedLoop) -> float:
        batches = [padded_batch(self.dataset, rows, self.size.length) for rows in self.mixed]
        return self.timed(lambda: [loop.step(batch) for batch in batches])

    def bare(self, objective: Any, dtype: str) -> float:
        """Forward, backward and step on batches that are prepared before the clock starts."""
        loop = self.make_loop(dtype, objective, FixedBatches(self.dataset, self.rows), [], None)
        batches = [self.on_device(objective.prepare([self.dataset.gather(rows, 0)], 1)[0]) for rows in self.rows]

        def run() -> None:
            for batch in batches:
                with torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bf16"):
                    loss, _ = loop.network.forward(batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(loop.network.parameters, 1.0)
                loop.optimizer.step()
                loop.optimizer.zero_grad(set_to_none=True)

        objective.train()
        return self.timed(run)

    def looped(self, objective: Any, dtype: str) -> float:
        loop = self.make_loop(dtype, objective, FixedBatches(self.dataset, self.rows), [], None)
        return self.timed(loop.fit)

    def report_speed(self, times: dict[str, list[float]], flops: float) -> None:
        first = next(iter(times.values()))
        peak, source = peak_flops(self.device, self.options.peak_tflops)
        rows = self.size.batch_size * self.size.length
        rates = {
            d: product_rate(self.device, DTYPES[d], rows, self.size.d_model, self.wait, self.clock)
            for d in self.options.dtype
        }
        size = f"d {self.size.d_model}, {self.size.n_layers} layers, L {self.size.length}, V {self.vocab.vocab_size}"
        print(f"\n{size}, {self.size.batch_size} sequences per batch, {self.device}; {flops / 1e6:.1f} MFLOP per token")
        print(
            "of products: of the rate of one large matrix product here, "
            + ", ".join(f"{d} {r / 1e9:.0f} GFLOP/s" for d, r in rates.items())
            + f"; MFU: of the peak ({source})"
        )
        print(f"{'variant':32} {'s/step':>8} {'tokens/s':>9} {'of products':>11} {'MFU':>6} {'against the first':>18}")
        for name, seconds in times.items():
            tokens = self.n_tokens / median(seconds)
            against = median(f / s for f, s in zip(first, seconds, strict=True))
            own = tokens * flops / rates[name.rsplit(" ", 1)[1]]
            mfu = "-" if np.isnan(peak) else f"{100 * tokens * flops / peak:.1f}%"
            print(
                f"{name:32} {median(seconds) / len(self.rows):8.3f} {tokens:9,.0f} {100 * own:10.0f}% "
                f"{mfu:>6} {against:17.2f}x"
            )
            self.record.setdefault("speed", {})[name] = {
                "seconds": seconds,
                "tokens_per_second": tokens,
                "of_products": own,
                "mfu": None if np.isnan(peak) else tokens * flops / peak,
                "against_first": against,
            }

    def parts(self) -> None:
        """Print the share of each part; periodic ones at their default periods."""
        for dtype in self.options.dtype:
            objective = build_objective(self.size, self.vocab, LossConfig(ledger_every=1)).to(self.device)
            make = lambda o, l, c, d=dtype: self.make_loop(d, o, l, c, self.folder / f"run_{d}")  # noqa: E731, E741
            self.looped(objective, dtype)
            (self.folder / f"run_{dtype}").mkdir()
            loader = FixedBatches(self.dataset, self.rows)
            parts, _ = measure_parts(make, objective, loader, ledger_of(objective), self.clock, self.wait)
            n = len(self.rows)
            training, loss = TrainingConfig(), LossConfig()
            periods = {"logging": 1, "checkpointing": training.save_every, "ledger": loss.ledger_every}
            once = {name: parts.seconds[name] / max(parts.calls[name], 1) for name in periods}
            per_step = {name: parts.seconds[name] / n for name in PARTS}
            for name in ("checkpointing", "ledger"):
                per_step[name] = once[name] / periods[name]
            whole = sum(per_step.values())
            print(f"\nOne step of TrainingLoop, {dtype}: {1e3 * whole:.0f} ms")
            for name, seconds in per_step.items():
                note = f"   {1e3 * once[name]:.0f} ms every {periods[name]} steps" if periods.get(name, 1) > 1 else ""
                print(f"  {name:14} {1e3 * seconds:9.2f} ms {100 * seconds / whole:6.2f} %{note}")
            self.record.setdefault("parts", {})[dtype] = per_step | {"once": once}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=["speed", "parts", "overhead"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--batch", type=int, default=4, help="sequences per batch")
    parser.add_argument("--batches", type=int, default=2, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile of this program's model and loss")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for the MFU; known for common GPUs")
    parser.add_argument("--small-steps", type=int, default=1000, help="overhead: steps per round of the small model")
    parser.add_argument("--small-width", type=int, default=256, help="overhead: width of the small model")
    parser.add_argument("--quick", action="store_true", help="small and fast")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.batches, options.rounds, options.small_steps, options.batch = 2, 1, 50, QUICK.batch_size
    return options


def main() -> None:
    """Print the wanted sections."""
    options = parse()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        if "speed" in options.sections:
            bench.padding()
            bench.speed()
        if "parts" in options.sections:
            bench.parts()
    if "overhead" in options.sections:
        bench.record["overhead"] = overhead(options.small_width, 256, options.small_steps, options.rounds)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, **bench.record}, indent=1, default=float))


if __name__ == "__main__":
    main()
