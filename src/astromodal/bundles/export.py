"""Export of a trained run as a bundle: one folder that needs nothing else.

::

    model.safetensors   weights                     calibration.json    corrections, where the run has some
    config.json         settings, columns, units    zero_points.csv     of cutouts, where the survey has a file
    tokenizers/         as they were fitted         reference/          tokens of validation objects (familiarity)
    README.md           the card                    examples.npz        objects and their answers
    judgement/          figures and plots           CITATION.cff        manifest.json   SHA-256 of every file

It is made beside its place, loaded and asked once, and only then put there.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ask.recalibration import FILE as CALIBRATION
from ..config.schema import DataConfig, HardwareConfig
from ..errors import ArtifactError, ConfigError
from ..files.atomic import writing
from ..files.bundle_files import CONFIG, WEIGHTS, is_bundle, save_weights, write_hashes
from ..files.io import load_torch, plain, write_json, write_text
from ..provenance.manifest import package_versions
from ..training.checkpoints.checkpoint import model_state
from ..vocabulary.modalities import MODALITIES
from .about import about_run, asks
from .archive import SUFFIX, is_archive, pack
from .card import card, citation
from .examples import choose_examples, replay, write_examples
from .judged import FOLDER as JUDGEMENT
from .judged import find_judgement
from .opening import ZERO_POINTS, open_bundle, open_run
from .reference import N_OBJECTS, write_reference

if TYPE_CHECKING:
    from .model import Model

FORMAT = 1
SETTINGS = ("vocab_spec", "sequence", "model", "vocab", "grid_width", "vocab_size", "n_types")
LOG = logging.getLogger("astromodal")


def export(
    run: str | Path,
    to: str | Path | None = None,
    *,
    judgement: str | Path | None = None,
    examples: bool = True,
    reference: int = N_OBJECTS,
    title: str | None = None,
    authors: str | None = None,
    license: str | None = None,
) -> Path:
    """Write the bundle of a run of ``train_lm.py``; returns its folder, or file.

    Args:
        to: folder, or a file ``….zip``; default ``bundles/<survey>-<run id>``. A bundle that is there is replaced,
            anything else is not.
        judgement: whose figures the card shows; default: the newest of these weights.
        examples: put some objects of the survey, with all that they have, into it.
        reference: validation objects whose tokens are put into it, for the familiarity; 0: none.
        title, authors, license: for the card and the citation.

    Raises:
        ArtifactMissingError, ArtifactError: the run, or what it needs, is missing or damaged.
        ConfigError: the folder holds something else, or the model has a modality from outside.
    """
    if is_bundle(run):
        raise ConfigError("a run of train_lm.py", got="a bundle", where=run, repair="copy the folder")
    model = open_run(Path(run), HardwareConfig(device="cpu"))
    weights = model.trained.weights
    run_dir = next(p for p in weights.resolve().parents[:2] if (p / "run.json").is_file())
    for modality in MODALITIES.outside():
        if modality in model.trained.tokenizers:
            raise ConfigError(
                "built-in modalities: a bundle holds no code",
                got=modality,
                where=run,
                repair="give away run, tokenizers and plugin",
            )
    found = find_judgement(run_dir, model.trained.fingerprint, None if judgement is None else Path(judgement))
    if found is None:
        LOG.warning("not judged: the card has no figures; run python evaluate.py first, or name a judgement")
    name = f"{model.data.name}-{model.trained.run_id or run_dir.name}"
    folder = Path("bundles") / name if to is None else Path(to)
    _check_place(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True)
        with scratch as beside:
            new = Path(beside) / "new"
            _write(model, new, found, examples, reference)
            about = _describe(model, run_dir, new, found, title)
            write_text(new / "README.md", card(about, new, license))
            write_text(new / "CITATION.cff", citation(about, authors))
            write_hashes(new)
            _prove(new)
            if folder.suffix == SUFFIX:
                pack(new, folder)
            else:
                _put(new, folder, Path(beside) / "old")
    LOG.info("bundle in %s", folder)
    return folder


def _put(new: Path, folder: Path, old: Path) -> None:
    """Move a bundle to its place; what is there, a bundle or an empty folder, only goes if that succeeds."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _check_place(folder: Path) -> None:
    ours = is_bundle(folder) or is_archive(folder)
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "a new folder, an empty one, or a bundle to be replaced",
            got="something else",
            where=folder,
            repair="--to another folder",
        )


def _write(model: Model, new: Path, judgement: Path | None, examples: bool, reference: int) -> None:
    """Everything but what is written about it."""
    new.mkdir()
    weights = model.trained.weights
    state = load_torch(weights)
    save_weights(new / WEIGHTS, model_state(state, weights))
    for name, tokenizer in model.trained.tokenizers.items():
        _copy_tokenizer(model, name, new / "tokenizers" / MODALITIES[name].folder)
        LOG.info("%s tokenizer %s", name, tokenizer.fingerprint)
    data = _portable(model.data, new)
    trained = {key: state["config"][key] for key in SETTINGS}
    content = {"weights": model.trained.fingerprint, "run_id": model.trained.run_id, "trained": trained, "data": data}
    write_json(new / CONFIG, plain({"format": FORMAT, **content, "versions": package_versions()}))
    if model.calibration.is_file():
        shutil.copyfile(model.calibration, new / CALIBRATION)
    if model.trained_on.store is not None:
        n = write_reference(model.trained_on.store, new, model.trained.tokenizers.fingerprints, reference)
        LOG.info("familiarity: tokens of %d validation objects", n)
    else:
        LOG.warning("no validation objects for the familiarity: %s", model.trained_on.why)
    if judgement is not None:
        _copy_judgement(judgement, new / JUDGEMENT)
    rows = choose_examples(model, model.trained_on, LOG) if examples else None
    if rows is not None:
        by_field = model.data.images is not None and model.data.images.zero_point_file
        write_examples(model, rows, new, model.trained_on.cubes[0].field if by_field else None)


def _copy_tokenizer(model: Model, name: str, target: Path) -> None:
    """The files of a fitted tokenizer, as they are."""
    from ..provenance.manifest import check_manifest

    root = model.trained.tokenizers_root
    if root is None:
        raise ArtifactError("tokenizers that were loaded from a folder", got="others", where="export")
    source = root / MODALITIES[name].folder
    manifest = check_manifest(source, verify_files=True)
    target.mkdir(parents=True)
    for file in ("manifest.json", *manifest["files"], *manifest.get("beside", {})):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)


def _copy_judgement(source: Path, target: Path) -> None:
    """Figures and plots of a judgement."""
    (target / "plots").mkdir(parents=True)
    for name in ("evaluation.json", "evaluation.txt"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    for plot in sorted((source / "plots").glob("*.png")):
        shutil.copyfile(plot, target / "plots" / plot.name)


def _portable(data: DataConfig, new: Path) -> dict[str, Any]:
    """The section ``data`` without the paths of this machine."""
    content = plain(asdict(data)) | {"root": "", "fields": None, "synthetic": None}
    if data.images is not None and data.images.zero_point_file:
        shutil.copyfile(data.images.zero_point_file, new / ZERO_POINTS)
        content["images"]["zero_point_file"] = ZERO_POINTS
    return content


def _describe(model: Model, run_dir: Path, new: Path, judgement: Path | None, title: str | None) -> dict[str, Any]:
    """What the card and ``explain()`` say, also written into the configuration."""
    from ..files.io import read_mapping

    about = about_run(run_dir, model.trained, model.trained_on, judgement)
    about |= {"title": title or f"{about['survey']}, run {about['run']}", "asks": asks(model.trained, model.data)}
    about.pop("why_unknown")
    write_json(new / CONFIG, read_mapping(new / CONFIG) | {"about": plain(about)})
    return plain(about)


def _prove(new: Path) -> None:
    """Load the bundle and ask its examples.

    Raises:
        ArtifactError: it does not answer as the run does.
    """
    from .examples import FILE

    try:
        model = open_bundle(new, HardwareConfig(device="cpu"))
        if (new / FILE).is_file():
            replay(model, new)
    except ArtifactError as error:
        raise ArtifactError.plain(f"the bundle is not what the run is, and was not written: {error}") from error
