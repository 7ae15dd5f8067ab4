"""Errors of a finished run per object of the held-out sky, and two variants compared object by object.

    python benchmarks/paired.py RUN_DIR...     # in the folder where the runs were started; writes RUN_DIR/objects.npz

``objects.npz``: ``object_index (n,)``, ``values (n, 5)`` and ``counts (n, 5)`` in the order of ``METRICS``: the mean
over the object's positions (NaN where it has none) and how many they are.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from astromodal.core.io import load_npz, load_torch, read_json, save_npz
from astromodal.metrics.bootstrap import PairedDifference, paired_bootstrap
from astromodal.training.scoring import Scorer
from astromodal.training.standardize import MODALITIES

METRICS = ("ce", *(f"error_{m}" for m in MODALITIES), "crps_scalar")
SCORE = [1, 2, 3]  # columns of which the score is the mean


class RowScorer(Scorer):
    """A scorer that keeps the rows of the last batch beside their sums."""

    def sums(self, states: Tensor, weight: Tensor | None, targets: Any, layout: Any, *args: Any) -> dict:
        values = self.rows(states, weight, targets, layout, *args)
        self.last = (values.cpu().numpy(), layout.order[: len(values)], targets.modality)
        return {}


def object_sums(values: np.ndarray, order: np.ndarray, modality: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts ``(n, 5)`` of a batch of n objects.

    Args:
        values: cross-entropy, hit, error and CRPS of the scored positions ``(P, 4)``.
        order: those positions among all of the batch's ``(P,)``, object by object.
        modality: of every position ``(N,)``, index in MODALITIES or -1.
    """
    objects, kind = order // (len(modality) // n), modality[order]
    sums, counts = np.zeros((n, len(METRICS))), np.zeros((n, len(METRICS)))
    scalar = kind == MODALITIES.index("scalar")
    parts = [(0, 0, np.ones(len(order), bool)), (4, 3, scalar), *((1 + m, 2, kind == m) for m in range(3))]
    for column, source, here in parts:
        sums[:, column] = np.bincount(objects[here], values[here, source], n)
        counts[:, column] = np.bincount(objects[here], minlength=n)
    return sums, counts


@torch.no_grad()
def score_objects(run_dir: Path) -> dict[str, np.ndarray]:
    """What ``objects.npz`` holds, from the best weights of a run.

    Raises:
        SystemExit: the objects do not add up to the figures in the run's ``summary.json``.
    """
    from omegaconf import OmegaConf

    from astromodal.config.schema import Config
    from astromodal.core.runs import RunContext
    from astromodal.experiment import LanguageModelRun

    with tempfile.TemporaryDirectory() as scratch:
        cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(run_dir / "config.yaml"))
        cfg.run_dir = scratch  # the run's own stays as it is
        torch.set_num_threads(cfg.hardware.n_threads or 1)
        run = LanguageModelRun(OmegaConf.to_object(cfg), RunContext(cfg, "train_lm"), {})
    objective = run.objective
    objective.model.load_state_dict(load_torch(run_dir / "best_model.pt")["model_state_dict"])
    objective.eval()
    objective.scorer = RowScorer(objective.tables, run.vocab)
    indices, sums, counts = [], [], []
    for batch in run.loader("val"):
        objective.evaluate(batch)
        batch_sums, batch_counts = object_sums(*objective.scorer.last, len(batch["tokens"]))
        indices.append(batch["object_index"].numpy())
        sums.append(batch_sums)
        counts.append(batch_counts)
    index, total, count = np.concatenate(indices), np.concatenate(sums), np.concatenate(counts)
    _check(total.sum(0), count.sum(0), read_json(run_dir / "summary.json")["model"])
    order = np.argsort(index)
    with np.errstate(invalid="ignore"):
        return {"object_index": index[order], "values": (total / count)[order], "counts": count[order]}


def _check(total: np.ndarray, count: np.ndarray, summary: dict[str, float]) -> None:
    for name, found, n in zip(METRICS, total, count, strict=True):
        if n and not np.isclose(found / n, summary[name], rtol=1e-4):
            raise SystemExit(f"error: {name} of the objects is {found / n}, that of the run {summary[name]}")


class Comparison(NamedTuple):
    """One metric of one variant against another's; gains are in percent of the other's, positive is better."""

    gain: float
    low: float
    high: float
    n_better: int  # seeds in which it is better
    n_seeds: int
    objects: PairedDifference

    @property
    def excludes_zero(self) -> bool:
        return self.objects.excludes_zero


def compare(runs: Sequence[Path], others: Sequence[Path], n_resamples: int = 10_000) -> dict[str, Comparison]:
    """Every metric, and the score, of runs against those of another variant with the same seeds, in the same order.

    An object's value is the mean over the seeds; intervals say what other held-out objects would change.
    """
    pairs = [(load_npz(a / "objects.npz"), load_npz(b / "objects.npz")) for a, b in zip(runs, others, strict=True)]
    for a, b in pairs:
        if not np.array_equal(a["object_index"], b["object_index"]):
            raise SystemExit("error: the runs were validated on different objects")
    mine, theirs = (np.stack([pair[i]["values"] for pair in pairs]) for i in range(2))
    found = {}
    for name, columns in {"score": SCORE, **{m: [i] for i, m in enumerate(METRICS)}}.items():
        columns = [c for c in columns if np.isfinite(mine[..., c]).any()]
        if not columns:
            continue
        a, b = mine[..., columns], theirs[..., columns]
        result = paired_bootstrap(a.mean(0), b.mean(0), n_resamples)
        per_seed = np.nanmean(a - b, axis=1).mean(-1)
        unit = -100.0 / np.nanmean(b.mean(0), axis=0).mean()
        found[name] = Comparison(result.difference * unit, result.high * unit, result.low * unit,
                                 int((per_seed < 0).sum()), len(per_seed), result)  # fmt: skip
    return found


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        save_npz(folder / "objects.npz", score_objects(folder))
