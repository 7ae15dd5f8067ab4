"""Run directories as ``train_lm.py`` writes them, with figures of the test's choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from astromodal.files.io import save_npz

INPUTS = {"sequences": "5e0e" * 8, "scalar_tokenizer": "5ca1" * 8}
CONFIG = {
    "loss": {"enabled": True, "weight_image": 0.1, "weight_scalar": 0.1, "sample_k": 64, "ce": "full"},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "betas": [0.9, 0.95]},
    "training": {"monitor": "val/score", "monitor_mode": "auto", "epochs": 2},
    "data": {"name": "synthetic", "root": None},
    "paths": {"store": "artifacts/synthetic/default", "runs": "runs"},
    "tracking": {"wandb": "disabled", "tags": []},
}


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``config`` with dotted keys replaced."""
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        *groups, last = key.split(".")
        place = config
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return config


def validation(step: int, score: float, ce: float | None = None) -> dict[str, Any]:
    ce = 3.0 + score if ce is None else ce
    return {
        "step": step,
        "time": 1.0 + step,
        "val/ce": ce,
        "val/score": score,
        "val/error_image": score * 1.2,
        "val/error_scalar": score * 0.8,
        "val/accuracy_image": 1 - score,
    }


def make_run(
    root: Path,
    name: str,
    run_id: str = "20260101-000000-000",
    *,
    seed: int = 0,
    score: float = 0.5,
    ce: float | None = None,
    changes: dict[str, Any] | None = None,
    ms: float = 10.0,
    status: str = "DONE",
    job: str | None = None,
    inputs: dict[str, str] | None = None,
    grad_shares: dict[str, float] | None = None,
    errors: dict[str, np.ndarray] | None = None,
    record: dict[str, Any] | None = None,
) -> Path:
    """A finished run whose best validation (step 20 of 30) has ``score``, and whose last one is worse by 0.05."""
    folder = root / name / run_id if job is None else root / "sweeps" / run_id / job
    folder.mkdir(parents=True)
    config = merged(
        CONFIG,
        {"stage": "train_lm", "name": name, "run_id": run_id, "run_dir": str(folder), "seed": seed} | (changes or {}),
    )
    shares = {f"grad_share/{key}": value for key, value in (grad_shares or {}).items()}
    lines = [
        {"step": s, "time": float(s), "train/loss": 5 - s / 10, "train/ce": 5 - s / 10, "perf/step_ms": t} | shares
        for s, t in ((10, 9 * ms), (20, ms), (30, ms))
    ]
    lines += [validation(10, score + 0.2), validation(20, score, ce), validation(30, score + 0.05)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps(config))
    model = {key.removeprefix("val/"): value for key, value in validation(20, score, ce).items() if "val/" in key}
    summary = {"steps": 30, "epochs": 2, "best_step": 20, "model": model, "baselines": {"marginal": {"score": 1.0}}}
    if status == "DONE":
        (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "run.json").write_text(
        json.dumps(
            {
                "schema_version": 1,
                "stage": "train_lm",
                "name": name,
                "run_id": run_id,
                "job": job,
                "status": status,
                "created": f"2026-01-01T00:00:{seed:02d}.000+00:00",
                "seconds": 12.5,
                "world_size": 1,
                "seed": seed,
                "git": {"revision": "abcdef0123456789", "dirty": False},
                "versions": {"python": "3.11.7", "torch": "2.6.0"},
                "inputs": INPUTS if inputs is None else inputs,
                "attempts": [],
            }
            | (record or {})
        )
    )
    if errors is not None:
        save_npz(folder / "object_errors.npz", errors)
    return folder


def object_errors(rng: np.random.Generator, n: int = 300, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Errors of n objects, a third without an image; objects differ far more than runs do."""
    difficulty = np.random.default_rng(0).gamma(2.0, 0.3, n)
    image = difficulty + shift + rng.normal(0, 0.05, n)
    image[::3] = np.nan
    return {
        "object_index": np.arange(1000, 1000 + n),
        "ce": 3 + difficulty + shift + rng.normal(0, 0.05, n),
        "error_image": image,
        "error_scalar": difficulty + shift + rng.normal(0, 0.05, n),
    }


def sweep(root: Path, *, seeds: int = 3, noise: float = 0.004) -> list[Path]:
    """sample_k x weight_image x learning rate; only the weight matters, and sample_k costs time."""
    rng, made = np.random.default_rng(1), []
    for k in (16, 256, None):
        for weight in (0.05, 0.2, 1.0):
            for rate in (1e-3, 3e-3):
                for seed in range(seeds):
                    score = 0.5 + 0.1 * abs(np.log10(weight / 0.2)) + rng.normal(0, noise)
                    changes = {
                        "loss.sample_k": k,
                        "loss.weight_image": weight,
                        "loss.weight_scalar": weight,
                        "optimizer.learning_rate": rate,
                    }
                    shares = {"image": 0.1 * weight, "scalar": 0.05 + 0.02 * weight}
                    made.append(
                        make_run(
                            root,
                            "grid",
                            "s1",
                            job=str(len(made)),
                            seed=seed,
                            score=score,
                            ce=3.4 - 0.3 * score + rng.normal(0, 0.02),
                            changes=changes,
                            ms=20 + 5 * np.log2(k or 1024),
                            grad_shares=shares,
                        )
                    )
    return made
