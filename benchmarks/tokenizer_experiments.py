"""Which codec and quantizer at which rate: every pair, fitted and judged alike; then tables and rate-error curves.

    python benchmarks/tokenizer_experiments.py --work W --report W/report --jobs 2          # everything, seed 0
    python benchmarks/tokenizer_experiments.py --work W --problems synthetic_image --seeds 0 1 \\
        --variants "ae2 km1024" "vae2 km1024"                                              # some, on two seeds
    python benchmarks/tokenizer_experiments.py --work W --steps 1200 --variants "ae2 km1024"  # a longer training
    python benchmarks/tokenizer_experiments.py --work W --report W/report --collect         # tables of what is there

A *problem* is a survey and one kind of array of it; a *variant* is a network and a quantizer, as overrides of
``train_tokenizers.py``, which each result records: composed, checked and fitted as that script does, in this process.
Results are ``W/results/*.json``; one that is there is not made again. A network that several variants share is trained
once (``W/networks``): the same settings and seed give the same weights. Real cubes are in ``$ASTROMODAL_REALDATA``.

Seconds are of CPU, one thread: ``train_s`` for the network, ``fit_s`` for reading, codebook and report.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tokenizer_variants import PROBLEMS, SKY, WITHOUT_RUN, Problem, training, variants

from astromodal.config.checks.validate import validate
from astromodal.config.launching.register import conf_dir, register
from astromodal.config.schema import Config
from astromodal.data import assign_splits, discover, ensure_survey
from astromodal.data.datacube import Datacube
from astromodal.data.spectra import read_spectra, spectrum_columns
from astromodal.files.io import read_json, write_json
from astromodal.provenance.manifest import fingerprint_config
from astromodal.tokenizers.image import tokenizer as image_module
from astromodal.tokenizers.image.fit import stream
from astromodal.tokenizers.spectrum import learned_group as spectrum_module
from astromodal.vocabulary.modalities import MODALITIES

COMMON = (
    *WITHOUT_RUN,
    "data.splits.val_fraction=0.2",
    "data.splits.test_fraction=0.02",
)
TIMED_OBJECTS = 200  # encoded by the clock


def source(problem: Problem, work: Path) -> tuple[str, ...]:
    """Where the cubes are: made below ``work``, or given by the environment."""
    if problem.survey == "synthetic":
        (work / "synthetic").mkdir(parents=True, exist_ok=True)
        return (f"data.root={work / 'synthetic'}",)
    root = os.environ.get("ASTROMODAL_REALDATA")
    if not root or not (Path(root) / problem.survey).is_dir():
        raise SystemExit(f"error: set ASTROMODAL_REALDATA to a folder with {problem.survey}/, got {root!r}")
    return (f"data.root={Path(root).absolute() / problem.survey}",)


# ------------------------------------------------------------------------------------------- one fit


class Job(NamedTuple):
    """Variants that share a network: it is trained for the first of them."""

    work: Path
    problem: str
    seed: int
    steps: int | None
    extra: tuple[str, ...]
    variants: tuple[str, ...]

    def result(self, variant: str) -> Path:
        steps = f"_{self.steps}" if self.steps and not variant.startswith("patches") else ""
        return self.work / "results" / f"{self.problem}_{variant.replace(' ', '_')}{steps}_seed{self.seed}.json"


def run(job: Job) -> list[str]:
    """Fit and judge what is not there yet; a line per variant, a failure too, so that the others go on."""
    torch.set_num_threads(1)
    problem, said = PROBLEMS[job.problem], []
    for variant in job.variants:
        if job.result(variant).exists():
            continue
        network = () if variant.startswith("patches") else training(problem, job.steps)
        chosen = (*variants(problem)[variant], *network, *job.extra, f"seed={job.seed}")
        try:
            figures = measure(problem, chosen, job.work)
        except Exception as error:
            said.append(f"{job.problem} {variant}: {type(error).__name__}: {error}")
            continue
        record = {
            "problem": job.problem,
            "variant": variant,
            "seed": job.seed,
            "steps": job.steps,
            "overrides": chosen,
            "figures": figures,
        }
        write_json(job.result(variant), record)
        said.append(f"{job.problem} {variant} {job.seed}: {figures['bits']:.0f} bits, {figures['error']:.3f}")
    return said


def configured(chosen: Iterable[str], problem: Problem, work: Path) -> Config:
    """The configuration that ``train_tokenizers.py`` would have, checked as there."""
    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        cfg = compose("train_tokenizers", [*COMMON, *chosen, *source(problem, work)])
    validate(cfg, "train_tokenizers")
    return OmegaConf.to_object(cfg)


def measure(problem: Problem, chosen: tuple[str, ...], work: Path) -> dict[str, Any]:
    """Fit a tokenizer; its figures on held-out objects, and what it took."""
    config = configured(chosen, problem, work)
    cubes = discover(config.data, config.paths.datacube_template)
    splits = assign_splits(cubes, config.data)
    kind = MODALITIES[problem.modality].tokenizer_class()
    tokenizer = kind(getattr(config.tokenizer, problem.modality), config.hardware)
    trained = Once(work / "networks", chosen)
    started = time.process_time()
    with (
        patch.object(image_module, "train_codec", trained.wrap(image_module.train_codec)),
        patch.object(spectrum_module, "train_network", trained.wrap(spectrum_module.train_network)),
    ):
        report = tokenizer.fit(cubes, splits, config.data, None, config.seed)
    spent = time.process_time() - started - trained.spent_now
    figures = of_spectra(report["groups"][problem.group]) if problem.group else of_images(report)
    figures |= {"train_s": trained.seconds, "fit_s": spent, "parameters": trained.parameters}
    figures["encode_ms"] = encoding_time(tokenizer, cubes, config, problem)
    return figures


class Once:
    """Stands for the function that trains a network: trains it, or loads what the same settings gave before."""

    def __init__(self, folder: Path, chosen: Iterable[str]) -> None:
        kept = [o for o in chosen if "quantizer" not in o]
        self.path = folder / f"{fingerprint_config({'overrides': kept})}.pt"
        self.seconds = self.spent_now = 0.0
        self.parameters = 0

    def wrap(self, train: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def once(network: torch.nn.Module, *arguments: Any, **settings: Any) -> dict[str, Any]:
            started = time.process_time()
            if self.path.exists():
                kept = torch.load(self.path, weights_only=True)
                network.load_state_dict(kept["state"])
            else:
                result = train(network, *arguments, **settings)
                kept = {"state": network.state_dict(), "result": result, "seconds": time.process_time() - started}
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(kept, self.path.with_suffix(".part"))
                self.path.with_suffix(".part").replace(self.path)
            self.spent_now, self.seconds = time.process_time() - started, kept["seconds"]
            self.parameters = sum(p.numel() for p in network.parameters())
            return kept["result"]

        return once


def of_spectra(entry: dict[str, Any]) -> dict[str, Any]:
    """Figures of a group; ``error`` is the share of the variance, NaN what needs known noise and has none."""
    sizes = [stage["n_codes"] for stage in entry.get("stages", [entry])]
    return {
        "n": entry["n_spectra"],
        "tokens": entry["n_tokens"],
        "codes": entry["n_codes"],
        "used": entry["codes_used"],
        "perplexity": entry["perplexity"],
        "bits": entry["n_tokens"] / len(sizes) * float(np.log2(sizes).sum()),
        "entropy_bits": entry["bits_per_object"],
        "error": entry["fraction_of_variance"],
        "chi2": entry["chi2_per_pixel"],
        "over_noise": entry["median_error_over_noise"],
    }


def of_images(report: dict[str, Any]) -> dict[str, Any]:
    """Figures inside of the ellipse; ``floor`` is the error without quantisation."""
    return {
        "n": report["n_held_out"],
        "tokens": report["n_tokens"],
        "codes": report["n_codes"],
        "used": report["codes_used"],
        "perplexity": report["perplexity"],
        "bits": report["bits_per_object_uncoded"],
        "entropy_bits": report["bits_per_object"],
        "error": report["variance_fraction"],
        "floor": report["variance_fraction_inside_unquantized"],
        "over_noise": report["rmse_inside_sigma"],
        "arcsinh": report["rmse_inside_arcsinh"],
    }


def encoding_time(tokenizer: Any, cubes: list[Datacube], config: Config, problem: Problem) -> float:
    """CPU milliseconds per object that has the array, without reading."""
    spent, n = 0.0, 0
    for batch in batches(cubes, config, problem):
        given = (problem.group, batch) if problem.group else (batch,)
        started = time.process_time()
        tokenizer.encode(*given)
        spent, n = spent + time.process_time() - started, n + int(batch.present.sum())
        if n >= TIMED_OBJECTS:
            break
    return 1e3 * spent / max(n, 1)


def batches(cubes: list[Datacube], config: Config, problem: Problem) -> Iterator[Any]:
    if problem.modality == "image":
        everything = {cube.field: np.ones(cube.n_rows, dtype=bool) for cube in cubes}
        yield from (batch for _, _, batch in stream(cubes, everything, config.data))
        return
    names = spectrum_columns(config.data.spectra[problem.group])
    for cube in cubes:
        for table in cube.batches(names, rows=config.data.batch_rows):
            yield read_spectra(table, config.data, problem.group)


# --------------------------------------------------------------------------------------------- all


def jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """What was asked for, variants of one network together."""
    for seed, name in itertools.product(arguments.seeds, arguments.problems):
        chosen = [v for v in variants(PROBLEMS[name]) if not arguments.variants or v in arguments.variants]
        for _, group in itertools.groupby(chosen, key=lambda variant: variant.split()[0]):
            yield Job(arguments.work.absolute(), name, seed, arguments.steps, tuple(arguments.override), tuple(group))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--variants", nargs="+", help="such as 'patches16 km1024'; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="of every network, kept apart from the results with the default")
    parser.add_argument("--jobs", type=int, default=1, help="fits at the same time, one thread each")
    parser.add_argument("--work", type=Path, required=True, help="folder for cubes, networks and results")
    parser.add_argument("--report", type=Path, help="folder for tokenizers_table.md and tokenizers.png")
    parser.add_argument("--override", nargs="+", default=[], help="of train_tokenizers.py, for every fit")
    parser.add_argument("--collect", action="store_true", help="run nothing; report what is finished")
    return parser.parse_args()


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def main() -> None:
    arguments = parse()
    if not arguments.collect:
        wanted = list(jobs(arguments))
        if any(PROBLEMS[name].survey == "synthetic" for name in arguments.problems):
            config = configured(
                (*SKY, "tokenizer=scalar", *arguments.override), PROBLEMS["synthetic_desi"], arguments.work.absolute()
            )
            ensure_survey(config.data, config.paths.datacube_template)
        if arguments.jobs == 1:
            for job in wanted:
                say(run(job))
        else:
            with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
                for lines in pool.map(run, wanted):
                    say(lines)
    if arguments.report:
        from tokenizer_tables import write_report

        records = [read_json(path) for path in sorted((arguments.work / "results").glob("*.json"))]
        for path in write_report([r for r in records if r["problem"] in arguments.problems], arguments.report):
            print(path)


if __name__ == "__main__":
    main()
