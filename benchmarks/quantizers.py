"""Fitting and encoding with the quantizers against scikit-learn and NumPy, in one process on one thread.

    PYTHONPATH=src python benchmarks/quantizers.py                      # 2048 codes, 10 million scalars
    PYTHONPATH=src python benchmarks/quantizers.py --quick --json out.json

Vectors of two dimensions stand for latents of cutouts (many tight ones over sky, few wide ones over objects), vectors
of 64 for patches of spectra. Both sides get the same rows and the same number of codes; assignment asks both for the
same centroids. Rounds are interleaved and ratios are medians over the rounds; ``clock`` is what a person waits,
``processor`` what the machine spent, which other programs on it disturb less. faiss stands beside them where it is
installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from astromodal.config.schema import KMeansConfig, ResidualKMeansConfig
from astromodal.quantizers import KMeans, NearestEntry, QuantileBinner, ResidualKMeans, quantizer_report
from astromodal.quantizers.order import Ranked
from astromodal.quantizers.quantile import quantile_ranks

Ways = dict[str, Callable[[int], Any]]
TARGETS = {"fit 2-D": 5.0, "fit 64-D": 1.7, "assign 2-D": 4.0, "assign 64-D": 1.2, "quantiles": 6.0, "bins": 3.0}


def latents(n: int) -> np.ndarray:
    """(n, 2): seven in ten over sky, the rest over objects, along a bent band."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 2)) * np.where(rng.random(n) < 0.7, 0.15, 1.0)[:, None]
    rows[:, 1] += 0.5 * rows[:, 0] ** 2
    return rows.astype(np.float32)


def patches(n: int) -> np.ndarray:
    """(n, 64): eight components of falling strength, and noise."""
    rng = np.random.default_rng(1)
    components = rng.normal(size=(8, 64)) / np.sqrt(8)
    signal = (rng.normal(size=(n, 8)) * np.linspace(2, 0.3, 8)) @ components
    return (signal + 0.3 * rng.normal(size=(n, 64))).astype(np.float32)


def timed(function: Callable[[int], Any], seed: int) -> tuple[Any, float, float]:
    """Result, seconds by the clock, seconds of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function(seed)
    return result, time.perf_counter() - clock, time.process_time() - processor


def compare(name: str, ways: Ways, rounds: int, judge: Callable[[Any], float], records: list[dict[str, Any]]) -> None:
    """Interleave the ways, the first being the one to beat, and print and record medians.

    ``judge`` turns a result into the figure that is to be as good: inertia, or the share of equal answers.
    """
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    figures: dict[str, list[float]] = {way: [] for way in ways}
    gc.collect()
    for seed in range(-1, rounds):  # the first round warms memory up
        for way, function in ways.items():
            result, *spent = timed(function, max(seed, 0))
            if seed >= 0:
                seconds[way].append(tuple(spent))
                figures[way].append(judge(result))
            del result
    first = next(iter(ways))
    for way, spent in seconds.items():
        times = np.array(spent)
        clock, processor = (float(x) for x in np.median(times, axis=0))
        ratios = np.median(np.array(seconds[first]) / times, axis=0)
        figure, relative = np.median(figures[way]), np.median(np.array(figures[way]) / np.array(figures[first]))
        target = TARGETS.get(name) if way == "ours" else None
        records.append(
            {
                "name": name,
                "way": way,
                "clock": clock,
                "processor": processor,
                "faster_clock": float(ratios[0]),
                "faster_processor": float(ratios[1]),
                "figure": float(figure),
                "relative": float(relative),
                "target": target,
            }
        )
        cells = (
            f"{clock:>8.3f} s{processor:>9.3f} s{ratios[0]:>8.2f}x{ratios[1]:>8.2f}x{figure:>13.6g}{relative:>10.5f}"
        )
        print(f"{name:<12}{way:<24}{cells}" + (f"   target {target}x" if target else ""), flush=True)


def inertia(X: np.ndarray) -> Callable[[np.ndarray], float]:
    """Summed squared error of the rows to their nearest centroids, by one judge for all."""
    return lambda centroids: float(NearestEntry(centroids).query(X)[1].sum(dtype=np.float64))


def vectors(label: str, X: np.ndarray, n_codes: int, rounds: int, records: list[dict[str, Any]]) -> None:
    """Fit codebooks, then assign the rows to one and the same."""
    fits: Ways = {
        "MiniBatchKMeans": lambda s: MiniBatchKMeans(n_codes, random_state=s, n_init=1).fit(X).cluster_centers_,
        "ours": lambda s: KMeans(KMeansConfig(n_codes=n_codes), s).fit(X).centroids_,
    }
    if find_spec("faiss"):
        fits["faiss"] = lambda s: _faiss_fit(X, n_codes, s)
    compare(f"fit {label}", fits, rounds, inertia(X), records)
    theirs = MiniBatchKMeans(n_codes, random_state=0, n_init=1).fit(X)
    expected, centroids = theirs.predict(X), np.ascontiguousarray(theirs.cluster_centers_)
    asked = NearestEntry(centroids)
    asked.codes(X)
    assigns: Ways = {
        "predict": lambda s: theirs.predict(X),
        "ours": lambda s: asked.codes(X),
        "ours, index included": lambda s: NearestEntry(centroids).codes(X),
    }
    if find_spec("faiss"):
        assigns["faiss"] = lambda s: _faiss_assign(X, centroids)
    compare(f"assign {label}", assigns, 2 * rounds, lambda codes: float((codes == expected).mean()), records)


def scalars(n: int, n_bins: int, rounds: int, records: list[dict[str, Any]]) -> None:
    """Quantiles of many numbers, and the bin of each."""
    values = np.random.default_rng(2).normal(20, 2, n).astype(np.float32)
    shares, ranks = np.arange(1, n_bins) / n_bins, quantile_ranks(n, n_bins)
    expected = np.quantile(values, shares, method="inverted_cdf")
    fits: Ways = {
        "np.quantile": lambda s: np.quantile(values, shares, method="inverted_cdf"),
        "ours": lambda s: Ranked(values).at(ranks),
        "np.sort and index": lambda s: np.sort(values)[ranks],
        "ours, with means, sds": lambda s: QuantileBinner(n_bins).fit(values).edges_[1:-1],
    }
    compare("quantiles", fits, rounds, lambda found: float(np.mean(found == expected)), records)
    binner = QuantileBinner(n_bins).fit(values)
    codes = np.searchsorted(expected, values, side="left")
    ways: Ways = {
        "np.searchsorted": lambda s: np.searchsorted(expected, values, side="left"),
        "ours": lambda s: binner.encode(values),
    }
    compare("bins", ways, rounds, lambda found: float(np.mean(found == codes)), records)


def staged(X: np.ndarray, n_codes: int) -> list[dict[str, Any]]:
    """Error of one codebook and of residual ones by stage, on rows that were not fitted."""
    train, held_out = X[: len(X) * 3 // 4], X[len(X) * 3 // 4 :]
    single = KMeans(KMeansConfig(n_codes=n_codes)).fit(train)
    several = ResidualKMeans(ResidualKMeansConfig(n_stages=3, n_codes=n_codes // 2)).fit(train)
    report = quantizer_report(several, held_out)
    lines = [{"name": f"{n_codes}", **quantizer_report(single, held_out)}]
    lines += [{"name": f"{s + 1} x {n_codes // 2}", **stage} for s, stage in enumerate(report["stages"])]
    bits = 0.0
    for number, line in enumerate(lines):
        bits = line["bits"] if number < 2 else bits + line["bits"]
        used = f"{line['codes_used']} of {line['n_codes']} codes used, perplexity {line['perplexity']:.0f}"
        error = f"{bits:>8.2f} bits per patch, error {line['distortion_fraction']:.4f} of the variance"
        print(f"{'held out':<12}{line['name'] + ' codes':<24}{error}, {used}")
    return lines


def _faiss_fit(X: np.ndarray, n_codes: int, seed: int) -> np.ndarray:
    import faiss

    faiss.omp_set_num_threads(1)
    model = faiss.Kmeans(X.shape[1], n_codes, seed=seed)
    model.train(X)
    return model.centroids


def _faiss_assign(X: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(X.shape[1])
    index.add(centroids)
    return index.search(X, 1)[1][:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: that it works, not what it measures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    n_plane, n_patches, n_codes, n_values, n_bins = 1_000_000, 200_000, 2048, 10_000_000, 1024
    if options.quick:
        n_plane, n_patches, n_codes, n_values, n_bins = 8000, 3000, 32, 300_000, 64
    records: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    sizes = f"{n_codes} codes, {n_plane} x 2, {n_patches} x 64; {n_bins} bins of {n_values} values"
    print(f"{sizes}; one thread, medians of {options.rounds} rounds (assignment {2 * options.rounds})")
    print(f"{'':<12}{'':<24}{'clock':>10}{'processor':>11}{'faster by':>9}{'proc.':>9}{'inertia or equal':>21}")
    with threadpool_limits(1):
        scalars(n_values, n_bins, options.rounds, records)
        vectors("2-D", latents(n_plane), n_codes, options.rounds, records)
        vectors("64-D", patches(n_patches), n_codes, options.rounds, records)
        stages = staged(patches(n_patches), n_codes)
    if options.json:
        options.json.write_text(json.dumps({"records": records, "stages": stages}, indent=1))


if __name__ == "__main__":
    main()
