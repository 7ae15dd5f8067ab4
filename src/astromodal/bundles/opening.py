"""``astromodal.load``: from a run directory, a bundle or a name on a hub to a model that can be asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.saved import typed
from ..config.schema import DataConfig, HardwareConfig
from ..core.io import read_mapping
from ..errors import ArtifactMissingError, DataError
from ..evaluation.recalibration import FILE as CALIBRATION
from ..evaluation.seen import training_run
from ..evaluation.trained import find_weights, load_trained, run_folder
from .about import about_model
from .model import Model

LOG = logging.getLogger("astromodal")


def load(source: str | Path, *, device: str = "auto", hardware: Mapping[str, Any] | None = None) -> Model:
    """A trained model.

    Args:
        source: directory of a run of ``train_lm.py``, or a file of weights in it.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        hardware: other settings of the section ``hardware``: precision, cpu_bf16, n_threads, …

    Raises:
        ArtifactMissingError: weights, tokenizers or the configuration are missing.
        ArtifactError: they do not belong together, or are damaged.
    """
    machine = typed(HardwareConfig, {"device": device, **(hardware or {})}, "load")
    return open_run(Path(source), machine)


def open_run(source: Path, hardware: HardwareConfig) -> Model:
    """The model of a run directory."""
    weights = find_weights(str(source), ".")
    folder = run_folder(weights)
    if folder is None or not (folder / "config.json").is_file():
        raise ArtifactMissingError("config.json of the run beside the weights", got="none", where=weights.parent,
                                   repair="give the run directory itself")  # fmt: skip
    config = read_mapping(folder / "config.json")
    data = typed(DataConfig, config.get("data"), folder / "config.json", ("name",))
    if data.images is not None and data.images.zero_point_file:
        data.images.zero_point_file = str(_found(folder, data.images.zero_point_file))
    trained = load_trained(weights, "artifacts", LOG)
    trained.tokenizers.check(data)
    trained_on = training_run(weights)
    calibration = weights.parent / CALIBRATION
    return Model(trained, data, hardware, trained_on, calibration, lambda: about_model(folder, trained, trained_on))


def _found(folder: Path, name: str) -> Path:
    """A file of a run's configuration, relative to where the run was started.

    Raises:
        DataError: it is not there.
    """
    places = [base / name for base in (Path.cwd(), *folder.resolve().parents)]
    for place in places:
        if place.is_file():
            return place
    raise DataError("the file with zero points", got="none", where=name, repair="start where the run was started")
