"""``astromodal.load``: from a run directory, a bundle or a name on a hub to a model that can be asked."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ask.recalibration import FILE as CALIBRATION
from ..ask.seen import training_run
from ..ask.trained import find_weights, load_trained, of_bundle, run_folder
from ..config.checks.saved import typed
from ..config.schema import DataConfig, HardwareConfig
from ..errors import ArtifactError, ArtifactMissingError, DataError
from ..files.bundle_files import CONFIG, WEIGHTS, bundle_state, is_bundle
from ..files.io import read_mapping
from ..machine.program import program
from .about import about_model
from .archive import is_archive, unpack
from .examples import replay
from .hub import PREFIX, download
from .model import Model
from .reference import read_reference

LOG = logging.getLogger("astromodal")
ZERO_POINTS = "zero_points.csv"  # of a bundle


def load(
    source: str | Path, *, device: str = "auto", hardware: Mapping[str, Any] | None = None, check: bool = False
) -> Model:
    """A trained model.

    Args:
        source: directory of a run of ``train_lm.py`` or a file of weights in it, a bundle (folder or zip), or the
            name of one on a hub: ``hf://org/name``, ``hf://org/name@revision``.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        hardware: other settings of the section ``hardware``: precision, cpu_bf16, n_threads, …
        check: ask the bundle's example rows and compare the answers with those that it has.

    Raises:
        ArtifactMissingError: weights, tokenizers or the configuration are missing.
        ArtifactError: they do not belong together, are damaged, or answer otherwise than they did.
    """
    machine = typed(HardwareConfig, {"device": device, **(hardware or {})}, "load")
    if str(source).startswith(PREFIX):
        folder, root = download(str(source))
        model = open_bundle(folder, machine, root)
    elif is_bundle(source):
        folder = Path(source)
        model = open_bundle(folder, machine)
    elif is_archive(source):
        home = tempfile.TemporaryDirectory(prefix="astromodal-", ignore_cleanup_errors=True)
        folder = Path(home.name)
        unpack(Path(source), folder)
        model = open_bundle(folder, machine)
        model.home = home
    else:
        if check:
            raise ArtifactError(
                "a bundle, which has example rows, for check=True",
                got="a run or nothing",
                where=source,
                repair=f"{program()} export {source}",
            )
        return open_run(Path(source), machine)
    if check:
        LOG.info("%d example rows are answered as they were", replay(model, folder))
    return model


def open_run(source: Path, hardware: HardwareConfig) -> Model:
    """The model of a run directory."""
    weights = find_weights(str(source), ".")
    folder = run_folder(weights)
    if folder is None or not (folder / "config.json").is_file():
        raise ArtifactMissingError(
            "config.json of the run beside the weights",
            got="none",
            where=weights.parent,
            repair="give the run directory itself",
        )
    config = read_mapping(folder / "config.json")
    data = typed(DataConfig, config.get("data"), folder / "config.json", ("name",))
    if data.images is not None and data.images.zero_point_file:
        data.images.zero_point_file = str(_found(folder, data.images.zero_point_file))
    trained = load_trained(weights, "artifacts", LOG)
    trained.tokenizers.check(data)
    trained_on = training_run(weights)
    calibration = weights.parent / CALIBRATION
    return Model(trained, data, hardware, trained_on, calibration, lambda: about_model(folder, trained, trained_on))


def open_bundle(folder: Path, hardware: HardwareConfig, root: Path | None = None) -> Model:
    """The model of a bundle, all of whose files are compared with their hashes first.

    Args:
        root: folder that links may lead to, in a hub's cache.
    """
    state = bundle_state(folder, root)
    config = read_mapping(folder / CONFIG)
    data = typed(DataConfig, config.get("data"), folder / CONFIG, ("name",))
    if data.images is not None and data.images.zero_point_file:
        if data.images.zero_point_file != ZERO_POINTS:
            raise ArtifactError(f"zero points in {ZERO_POINTS}", got="another file", where=folder / CONFIG)
        data.images.zero_point_file = str(folder / ZERO_POINTS)
    trained = of_bundle(state, folder / WEIGHTS)
    trained.tokenizers.check(data)
    about = config.get("about")
    about = dict(about) if isinstance(about, Mapping) else {}
    return Model(trained, data, hardware, read_reference(folder), folder / CALIBRATION, lambda: about)


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
