"""What a model's hidden states know of a label that it is not shown: linear and attention probes, judged.

    python -m astromodal.evaluation.probes RUN_DIR --label specz_z             RUN_DIR: a run of train_lm.py
    python -m astromodal.evaluation.probes RUN_DIR --label specz_z,teff --given spectrum --max-train 5000

The model is frozen and shown everything else of each object (or what ``--given`` names), never the label. Probes learn
from training objects, are chosen by validation objects and judged on test objects, in the label's unit, with bootstrap
intervals by object, beside the marginal (mean and median of the training objects). The pretraining itself has seen the
labels of the training objects, so only held-out objects count. Writes probes.json and probes.txt into RUN_DIR/probes.

Probes predict in the transformed space of the column, and no further than the training labels reach. The inverse of
such a prediction is judged as a median (MAE, scatter). The inverse of a mean is no mean: that (R2, RMSE) is the average
of the inverse over the residuals of the validation objects (Duan 1983, JASA 78, 605).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..config.schema import HardwareConfig, ScalarConfig
from ..core.io import read_json, write_json, write_text
from ..data.scalars import inverse_transform, transform
from ..data.splits import TEST, TRAIN, VAL
from ..metrics.bootstrap import bootstrap_figures, paired_bootstrap
from ..metrics.scalars import scalar_figures
from ..tokens.store import TokenStore
from .engine import Engine
from .probe_fits import ProbeOptions, attention_predictions, fit_attention, fit_ridge, mean_states
from .probe_states import HiddenStates, States, hidden_plan, labelled_objects
from .trained import TrainedModel, find_weights, load_trained

FOLDER = "probes"
_SHARES = (np.arange(128) + 0.5) / 128  # quantiles that stand for all residuals
FIGURES = ("r2", "mae", "rmse", "scatter")


def judge_probes(
    states: States, rows: Mapping[int, np.ndarray], values: np.ndarray, config: ScalarConfig,
    options: ProbeOptions | None = None, hardware: HardwareConfig | None = None, log: logging.Logger | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit both probes and judge them.

    Args:
        rows: numbers of the objects to learn from (``TRAIN``), to choose by (``VAL``) and to judge on (``TEST``).
        values: the label of every object ``(n,)`` in its unit.
        config: of the label's column.

    Returns:
        ``probes``: name → figure → value, low, high; ``linear`` and ``attention``: how they were fitted;
        ``attention_minus_linear``: difference of the absolute errors with its interval.
    """
    options, log = options or ProbeOptions(), log or logging.getLogger(__name__)
    hardware = hardware or HardwareConfig(device="cpu")
    target = transform(np.asarray(values, np.float64), config)
    learnt = target[rows[TRAIN]]
    low, high, center, scale = learnt.min(), learnt.max(), learnt.mean(), max(float(learnt.std()), 1e-12)
    standard = (target - center) / scale
    pooled = {k: mean_states(states, rows[k], options.batch_size) for k in (TRAIN, VAL, TEST)}
    linear = fit_ridge(pooled[TRAIN][0], standard[rows[TRAIN]], pooled[VAL][0], standard[rows[VAL]])
    sets = [(rows[k], standard[rows[k]]) for k in (TRAIN, VAL)]
    probe, fitted = fit_attention(states, *sets, linear, pooled[TRAIN][1:], options, hardware, log)
    found = {
        "linear": [linear(pooled[k][0]) for k in (VAL, TEST)],
        "attention": [attention_predictions(probe, states, rows[k], options.batch_size) for k in (VAL, TEST)],
    }

    def physical(standardised: np.ndarray) -> np.ndarray:
        return inverse_transform(np.clip(standardised * scale + center, low, high), config)

    truth, known = values[rows[TEST]], values[rows[TRAIN]]
    predictions = {"marginal": (np.full(len(truth), known.mean()), np.full(len(truth), np.median(known)))}
    for name, (on_val, on_test) in found.items():
        residuals = np.quantile(standard[rows[VAL]] - on_val, _SHARES)
        predictions[name] = physical(on_test[:, None] + residuals).mean(1), physical(on_test)
    errors = {name: np.abs(predictions[name][1] - truth) for name in found}
    paired = paired_bootstrap(errors["attention"], errors["linear"], options.n_resamples, options.seed)
    return {
        "probes": {name: _figures(truth, *p, options) for name, p in predictions.items()},
        "linear": {"penalty": linear.penalty, "val_mse": linear.val_mse},
        "attention": fitted | {"queries": options.n_queries},
        "attention_minus_linear": {"mae": paired.difference, "low": paired.low, "high": paired.high},
    }


def _figures(
    truth: np.ndarray, mean: np.ndarray, median: np.ndarray, options: ProbeOptions
) -> dict[str, dict[str, float]]:
    """Figures with intervals of predictions ``(n,)``."""

    def figures(*arrays: np.ndarray) -> dict[str, float]:
        found = scalar_figures(*arrays)
        return {name: found[name] for name in FIGURES}

    intervals = bootstrap_figures(figures, truth, mean, median, n_resamples=options.n_resamples, seed=options.seed)
    return {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in intervals.items()}


def probe_label(
    trained: TrainedModel, store: TokenStore, label: str, given: Sequence[str] | None = None,
    options: ProbeOptions | None = None, hardware: HardwareConfig | None = None, log: logging.Logger | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Probes of one label of a trained model; see :func:`judge_probes`.

    Raises:
        ConfigError: the model does not know the label or what is given, or the label is named as given.
        DataError: too few objects have the label.
        ArtifactError: the tokens do not belong to the model.
    """
    from ..training.precision import MixedPrecision
    from ..training.utils import resolve_device

    started = time.perf_counter()
    options, hardware = options or ProbeOptions(), hardware or HardwareConfig()
    log = log or logging.getLogger(__name__)
    device = resolve_device(hardware.device)
    plan = hidden_plan(trained.layout, trained.sequence, label, given, log)
    config = trained.tokenizers.scalar.configs[label]
    limits = {TRAIN: options.max_train, VAL: options.max_held_out, TEST: options.max_held_out}
    objects = labelled_objects(store, trained.layout, plan, label, config, limits, options.seed)
    precision = MixedPrecision(hardware.precision, device)
    n_bins = [len(binner.centers_) for binner in trained.tokenizers.scalar.binners]
    engine = Engine(trained.model.to(device), trained.layout.vocab, n_bins, precision, options.batch_size)
    states = HiddenStates(engine, objects.slots, label)
    rows = {k: objects.rows(k) for k in (TRAIN, VAL, TEST)}
    log.info("%s: %d objects to learn from, %d to choose by, %d to judge", label, *(len(r) for r in rows.values()))
    found = judge_probes(states, rows, objects.values, config, options, hardware, log)
    judged = "test" if objects.counts["test"]["used"] else "half of val"
    return {
        "label": label, "unit": config.unit, "given": sorted(plan.given, key=plan.places.__getitem__),
        "model": trained.fingerprint, "run": trained.run_id, "precision": precision.name, "drawn": objects.counts,
        "judged": {"split": judged, "objects": len(rows[TEST])}, "seconds": time.perf_counter() - started, **found,
    }  # fmt: skip


def as_text(results: Sequence[Mapping[str, Any]]) -> str:
    """A table per label."""
    lines = []
    for result in results:
        unit = f" [{result['unit']}]" if result["unit"] else ""
        drawn = ", ".join(f"{name} {n['used']} of {n['available']}" for name, n in result["drawn"].items())
        judged = result["judged"]
        lines += [f"{result['label']}{unit} from {', '.join(result['given'])}", f"  objects: {drawn}",
                  f"  judged on {judged['objects']} objects ({judged['split']}), 95 % intervals by object",
                  f"  {'':10}" + "".join(f"{name:>32}" for name in FIGURES)]  # fmt: skip
        for name, figures in result["probes"].items():
            cells = (f"{f['value']:.4g} ({f['low']:.4g} to {f['high']:.4g})" for f in figures.values())
            lines.append(f"  {name:10}" + "".join(f"{cell:>32}" for cell in cells))
        d = result["attention_minus_linear"]
        says = "differ" if d["low"] > 0 or d["high"] < 0 else "cannot be told apart"
        interval = f"{d['mae']:.4g} ({d['low']:.4g} to {d['high']:.4g})"
        lines += [f"  absolute error, attention minus linear: {interval}: {says}", ""]
    return "\n".join(lines)


def probe_run(
    run: Path, labels: Sequence[str], folder: Path, given: Sequence[str] | None, options: ProbeOptions,
    hardware: HardwareConfig, store: Path | None = None,
) -> str:  # fmt: skip
    """Probe labels of a run of train_lm.py; writes ``probes.json`` and ``probes.txt``, and returns the text.

    Raises:
        ArtifactMissingError: weights, tokenizers or token files are missing.
    """
    log = logging.getLogger(__name__)
    weights = find_weights(str(run), ".")
    root = store or _store_of(weights)
    trained = load_trained(weights, root, log)
    tokens = TokenStore(root)
    tokens.check_tokenizers(trained.tokenizers)
    results = [probe_label(trained, tokens, label, given, options, hardware, log) for label in labels]
    text = as_text(results)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "probes.json", {"options": asdict(options), "labels": results})
    write_text(folder / "probes.txt", text)
    return text


def _store_of(weights: Path) -> Path:
    """``paths.store`` of the run that the weights belong to, relative to where it was started."""
    home = next((p for p in weights.resolve().parents[:2] if (p / "config.json").is_file()), None)
    own = None if home is None else (read_json(home / "config.json").get("paths") or {}).get("store")
    places = [] if own is None else [base / own for base in (Path.cwd(), *home.parents)]
    return next((p for p in places if (p / "tokens").is_dir()), Path(own or "artifacts"))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ProbeOptions()
    parser.add_argument("run", type=Path, help="run directory of train_lm.py, or a file of weights")
    parser.add_argument("--label", required=True, metavar="COLUMNS", help="scalar columns, separated by commas")
    parser.add_argument("--given", metavar="NAMES", help="modalities, groups or columns; default: all but the label")
    parser.add_argument("--store", type=Path, help="paths.store; default: that of the run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: probes in the run directory")
    parser.add_argument("--max-train", type=int, default=default.max_train, help="objects to learn from")
    parser.add_argument("--max-held-out", type=int, default=default.max_held_out, help="to choose by, and to judge")
    parser.add_argument("--queries", type=int, default=default.n_queries, help="of the attention probe")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="at most")
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    from ..config.launch import one_line_errors

    given = _parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors("nothing was changed"):
        options = ProbeOptions(given.max_train, given.max_held_out, given.queries, given.epochs,
                               batch_size=given.batch_size, seed=given.seed)  # fmt: skip
        home = given.run if given.run.is_dir() else given.run.parent
        names = None if given.given is None else given.given.split(",")
        hardware = HardwareConfig(device=given.device)
        folder = given.out or home / FOLDER
        print(probe_run(given.run, given.label.split(","), folder, names, options, hardware, given.store))
        print(f"written to {folder}")


if __name__ == "__main__":
    main()
