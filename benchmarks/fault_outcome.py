"""What a training run ended with, and where two of them differ; for ``benchmarks/faults.py``."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from astromodal.files.io import load_torch, read_jsonl


def outcome(folder: Path) -> dict[str, object]:
    """Everything that a run ends with, without times."""
    records = [
        {k: v for k, v in r.items() if k != "time" and not k.startswith("perf/")}
        for r in read_jsonl(folder / "metrics.jsonl")
    ]
    found: dict[str, object] = {
        "metrics.jsonl": records,
        "training_history.json": json.loads((folder / "training_history.json").read_text()),
        "status": json.loads((folder / "run.json").read_text())["status"],
    }
    names = [
        "best_model.pt",
        "final_model.pt",
        *(f"checkpoints/{p.name}" for p in (folder / "checkpoints").glob("[!.]*.pt")),
    ]
    return found | {name: load_torch(folder / name) for name in sorted(names)}


def differences(a: object, b: object, where: str = "") -> list[str]:
    """Places at which two outcomes are not the same, to the bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        odd = [f"{where}/{key}: only in one" for key in sorted(map(str, {*a} ^ {*b}))]
        return odd + [d for key in a if key in b for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}/{i}")]
    return [] if type(a) is type(b) and (a == b or (a != a and b != b)) else [f"{where}: {a!r:.60} and {b!r:.60}"]
