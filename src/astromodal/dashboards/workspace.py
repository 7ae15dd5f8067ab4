"""A saved view at Weights & Biases with the comparisons of the report page (:mod:`astromodal.compare`).

Figures of the weights that a run kept are ``model/…`` in its summary (``summary.json``); curves are ``val/…``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, ArtifactMissingError, ConfigError
from ..files.io import write_text
from ..runs.tracking import has_account
from ..vocabulary.modalities import MODALITIES

KEYS = (*(f"loss.weight_{name}" for name in MODALITIES), "loss.sample_k", "optimizer.learning_rate", "seed")
_NEEDED = "the package wandb-workspaces is needed: pip install wandb-workspaces"


def workspace(options: argparse.Namespace) -> None:
    """Make the view of the command line: print it, write it, or save it at Weights & Biases.

    Raises:
        ConfigError: the package is missing, there is no account to save with, or ``--keys`` names unknown keys.
        ArtifactMissingError: ``--runs`` has no runs that differ.
        ArtifactError: Weights & Biases refused the view.
    """
    keys = _keys(options)
    view = build(options.entity, options.project, options.name, keys, options.metric)
    text = spec(view)
    if options.out is not None:
        write_text(options.out, text + "\n")
    if options.print:
        print(text)
    if options.out is not None or options.print:
        return
    if not has_account():
        raise ConfigError.plain("no Weights & Biases key is configured: wandb login, or --print or --out FILE")
    try:
        view.save()
    except Exception as error:
        raise ArtifactError.plain(f"Weights & Biases did not save the view: {type(error).__name__}: {error}") from error
    print(view.url)


def _keys(options: argparse.Namespace) -> list[str]:
    if options.keys:
        from ..config.reading.explain import all_keys

        keys = [key.strip() for key in options.keys.split(",")]
        unknown = [key for key in keys if key not in set(all_keys())]
        if unknown:
            raise ConfigError("--keys that exist", got=", ".join(unknown), repair=f"for example {', '.join(KEYS)}")
        return keys
    return differing(options.runs) if options.runs else list(KEYS)


def differing(paths: Sequence[Path]) -> list[str]:
    """Keys in which the finished runs below ``paths`` differ, one of those that vary together, and the seed.

    Raises:
        ArtifactMissingError: there are no such runs.
    """
    from ..compare.cohorts import swept_axes
    from ..compare.runs_table import read_runs_table

    runs = [run for run in read_runs_table(paths, None).runs if run.status == "done"]
    keys = [axis.key for axis in swept_axes(runs)]
    if len({str(run.seed) for run in runs}) > 1:
        keys.append("seed")
    if not keys:
        where = ", ".join(map(str, paths))
        raise ArtifactMissingError("finished runs that differ", got=f"{len(runs)} runs", where=where, repair="--keys")
    return list(dict.fromkeys(keys))


def summary_name(metric: str) -> str:
    """Name in the summary of what is called ``metric`` in curves.

    >>> summary_name("val/score"), summary_name("image/latent_mse")
    ('model/score', 'image/latent_mse')
    """
    return f"model/{metric.removeprefix('val/')}" if metric.startswith("val/") else metric


def build(entity: str, project: str, name: str, keys: Sequence[str], metric: str) -> Any:
    """The view as an object of ``wandb_workspaces``; nothing is sent.

    Raises:
        ConfigError: the package is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydantic, about the package's own classes
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ConfigError.plain(_NEEDED) from error
    best = summary_name(metric)
    sections = [
        ("Swept keys", _swept(wr, keys, best)),
        ("Cross-entropy against reconstruction", _trade_off(wr)),
        ("Curves", _curves(wr, metric)),
        ("sample_k and cost", _sample_k(wr, best)),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections],
    )


def spec(view: Any) -> str:
    """The view as JSON, as it would be saved."""
    return json.dumps(json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)), indent=2)


# -------------------------------------------------------------------------------------------- panels


def _swept(wr: Any, keys: Sequence[str], best: str) -> list[Any]:
    """Parallel coordinates over the keys and the metric, and W&B's importance of each key."""
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), display_name=key) for key in keys]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(best), display_name=best))
    return [
        wr.ParallelCoordinatesPlot(title=f"swept keys and {best}", columns=columns),
        wr.ParameterImportancePlot(with_respect_to=best),
    ]


def _trade_off(wr: Any) -> list[Any]:
    return [
        wr.ScatterPlot(
            title=f"cross-entropy against the error of {name}s",
            x=wr.SummaryMetric("model/ce"),
            y=wr.SummaryMetric(f"model/error_{name}"),
        )
        for name in MODALITIES
    ]


def _curves(wr: Any, metric: str) -> list[Any]:
    curves = dict.fromkeys([metric, "val/ce", *(f"val/error_{name}" for name in MODALITIES), "train/ce"])
    return [wr.LinePlot(title=name, x=wr.Metric("step"), y=[wr.Metric(name)]) for name in curves]


def _sample_k(wr: Any, best: str) -> list[Any]:
    k = wr.Config("loss.sample_k")
    costs = (best, "perf/step_ms", "perf/tokens_per_second")
    return [wr.ScatterPlot(title=f"{y} against sample_k", x=k, y=wr.SummaryMetric(y), log_x=True) for y in costs]
