"""A catalogue in parts, a file per field: written by any number of processes, gone on with, merged by nobody.

``catalogue.parquet`` and ``embeddings.parquet`` are folders then, which Parquet readers open as one table::

    catalogue.parquet/field_<field>.parquet
    embeddings.parquet/field_<field>.parquet
    answered/field_<field>.json               what the part was made from, its files' fingerprints, and what was counted

A field counts as answered once its record is there, written last; it is answered again if it would be made from
anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files.io import plain
from ..provenance.manifest import changed_files, fingerprint_config, fingerprint_file
from ..provenance.sealed import read_sealed, write_sealed
from ..tokens.store import FieldTokens
from . import catalogue as cat
from .prediction import Predictor, write_answers


def part_paths(folder: Path, field: str) -> tuple[Path, Path]:
    """A field's parts of catalogue and embeddings."""
    name = f"field_{field}.parquet"  # never one that readers of folders pass over, as they do names with _ in front
    return folder / cat.CATALOGUE / name, folder / cat.EMBEDDINGS / name


def made_from(predictor: Predictor, inputs: Mapping[str, str], splits: Sequence[str] | None) -> dict[str, str]:
    """Field → fingerprint of all that its part depends on.

    Args:
        inputs: field → fingerprint of what is asked about.
        splits: ``evaluate.splits``.
    """
    settings = predictor.settings
    common = {
        "meaning": {key: value for key, value in predictor.meaning().items() if key not in ("tokens", "datacubes")},
        "schema": [str(field) for field in predictor.schema()],
        "asked": [settings.fraction, settings.n_samples, settings.temperature, settings.top_p, predictor.seed],
        "splits": None if splits is None else list(splits),
        "embeddings": list(settings.embeddings),
        "familiarity": [settings.familiarity, settings.unfamiliar_above],
    }
    whole = fingerprint_config(plain(common))
    return {field: fingerprint_config({"question": whole, "field": own}) for field, own in inputs.items()}


def answered(folder: Path, wanted: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Records of the fields whose parts are there, whole, and made from what they would be made from."""
    found = {}
    for field, inputs in wanted.items():
        paths = dict(zip(("catalogue", "embeddings"), part_paths(folder, field), strict=True))
        try:
            record = read_sealed(cat.record_of(paths["catalogue"]))
            files = {f"{paths[name].parent.name}/{paths[name].name}": said for name, said in record["files"].items()}
            if record["inputs"] == inputs and not changed_files(folder, files, remember=True):
                found[field] = record
        except (ArtifactError, KeyError, TypeError, AttributeError):  # damaged or not there: made again
            continue
    return found


def write_parts(
    predictor: Predictor,
    fields: Iterable[FieldTokens],
    folder: Path,
    wanted: Mapping[str, str],
    splits: Sequence[str] | None = None,
    update: Callable[[int], Any] = lambda n: None,
) -> None:
    """Answer for each of the fields, and write its parts and then its record.

    Args:
        wanted: what the parts are made from, of :func:`made_from`.

    Raises:
        ArtifactError: as :func:`~.prediction.write_predictions`; the parts that were written stay.
    """
    for tokens in fields:
        paths = part_paths(folder, tokens.field)
        cat.record_of(paths[0]).unlink(missing_ok=True)
        summary = write_answers(predictor, [tokens], paths, splits, update)
        names = ("catalogue", "embeddings") if predictor.settings.embeddings else ("catalogue",)
        files = {name: fingerprint_file(path) for name, path in zip(names, paths, strict=False)}
        record = {"inputs": wanted[tokens.field], "files": files, "summary": summary}
        write_sealed(cat.record_of(paths[0]), record)


def of_all_parts(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What :func:`~.prediction.write_predictions` returns, from the records of all fields; seconds are sums.

    >>> one = {"objects": 2, "seconds": 3.0, "seconds_predicting": 1.0, "flags": {"z": {"CLIPPED": 1}}}
    >>> of_all_parts({"A": {"summary": one}, "B": {"summary": one}})["flags"]
    {'z': {'CLIPPED': 2}}
    """
    flags: dict[str, dict[str, int]] = {}
    total = dict.fromkeys(("objects", "seconds", "seconds_predicting"), 0)
    for record in records.values():
        for name in total:
            total[name] += record["summary"][name]
        for quantity, counts in record["summary"]["flags"].items():
            of = flags.setdefault(quantity, dict.fromkeys(counts, 0))
            for flag, n in counts.items():
                of[flag] += n
    seconds = total["seconds_predicting"]
    return {**total, "objects_per_second": total["objects"] / seconds if seconds else None, "flags": flags}


def forget_others(folder: Path, fields: Iterable[str]) -> None:
    """Remove the parts of fields that are not asked about: what is in the folders is the catalogue."""
    kept = set(fields)
    for path in sorted((folder / cat.RECORDS).glob("field_*.json")):
        field = path.stem.removeprefix("field_")
        if field not in kept:
            path.unlink(missing_ok=True)
            for part in part_paths(folder, field):
                part.unlink(missing_ok=True)
