"""A few example objects with their answers, in a bundle: asked again, the answers have to be the same.

Rows are kept as plain arrays: of a column of lists its values one after the other, and where each row begins.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..ask.questions import BEFORE
from ..data.columns import is_number, list_column_ragged, list_value_type, numbers, one_array
from ..data.splits import TEST
from ..errors import ArtifactError, ArtifactMissingError, UserError
from ..files.bounded import check_file_size
from ..files.io import load_npz, save_npz

if TYPE_CHECKING:
    from ..ask.seen import TrainingRun
    from .model import Model

FILE = "examples.npz"
N_ROWS = 4
MAX_BYTES = 1 << 28
TOLERANCE = {"float32": 1e-3}  # of a posterior's width: other machines sum in another order
COARSE = 0.1  # of reduced precision


def choose_examples(model: Model, trained_on: TrainingRun, log: logging.Logger) -> pa.Table | None:
    """Objects of the survey that have most of what the model knows, of the test split where there is one.

    None where the datacubes cannot be had any more.
    """
    if not trained_on.cubes or trained_on.store is None:
        log.warning("no example rows: the datacubes of the training run are not to be had")
        return None
    cube = trained_on.cubes[0]
    try:
        tokens = trained_on.store.open(cube.field)
        present = np.zeros(len(tokens))
        if tokens.scalar:
            present += np.asarray(tokens.scalar["present"]).sum(1)
        for part in (*tokens.spectra.values(), *([tokens.image] if tokens.image else ())):
            present += 2.0 * np.asarray(part["present"] if isinstance(part, dict) else part.present)
        held = np.asarray(tokens.split) == TEST
        rows = np.argsort(-(present + 1000.0 * held), kind="stable")[:N_ROWS]
        mask = np.isin(np.arange(cube.n_rows), rows)
        wanted = [name for name in model.columns() if name in cube.columns]
        pieces = [pa.Table.from_batches([batch.table]) for batch in cube.batches(wanted, row_mask=mask)]
        return pa.concat_tables(pieces).combine_chunks()
    except UserError as error:
        log.warning("no example rows: %s", error)
        return None


def write_examples(model: Model, rows: pa.Table, folder: Path, field: str | None) -> None:
    """Ask the model, and write rows and answers."""
    arrays = {f"row/{key}": value for key, value in pack(rows).items()}
    arrays |= {f"answer/{key}": value for key, value in _asked(model, rows, field).items()}
    if field is not None:
        arrays["field"] = np.array(field)
    save_npz(folder / FILE, arrays)


def read_examples(folder: Path) -> tuple[pa.Table, dict[str, np.ndarray], str | None]:
    """Rows, their answers, and the field that they are of.

    Raises:
        ArtifactMissingError, ArtifactError: there are none, or they are damaged.
    """
    if not (folder / FILE).is_file():
        raise ArtifactMissingError("example rows", got=f"no {FILE}", where=folder, repair="check=False")
    check_file_size(folder / FILE, MAX_BYTES, "example rows")
    arrays = load_npz(folder / FILE)
    parts: dict[str, dict[str, np.ndarray]] = {"row": {}, "answer": {}}
    for key, value in arrays.items():
        kind, _, name = key.partition("/")
        parts.setdefault(kind, {})[name] = value
    try:
        rows = unpack(parts["row"])
    except (KeyError, ValueError, IndexError, TypeError, pa.ArrowException) as error:
        raise ArtifactError("example rows", got=str(error)[:200], where=folder / FILE) from error
    return rows, parts["answer"], str(arrays["field"]) if "field" in arrays else None


def replay(model: Model, folder: Path) -> int:
    """Ask the example rows again and compare; returns how many there are.

    Raises:
        ArtifactMissingError: the bundle has none.
        ArtifactError: an answer is another one; with the column, the row and both values.
    """
    rows, expected, field = read_examples(folder)
    found = _asked(model, rows, field)
    share = TOLERANCE.get(model.precision, COARSE)
    for name, values in expected.items():
        other = found.get(name)
        if other is None or other.shape != values.shape:
            raise ArtifactError(
                f"an answer {name} of shape {values.shape}",
                got=None if other is None else other.shape,
                where=folder / FILE,
            )
        if values.dtype.kind not in "fiu":
            continue
        spread = expected.get(f"{name.rpartition('_')[0]}_std", values)
        width = float(np.nanmax(np.abs(spread), initial=0.0)) if np.isfinite(spread).any() else 1.0
        exact = values.dtype.kind in "iu"  # flags
        near = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": share, "atol": share * width}
        same = np.isclose(other.astype(float), values.astype(float), equal_nan=True, **near)
        if not same.all():
            row = int(np.argwhere(~same)[0][0])
            repair = "install the versions of the packages that config.json has"
            raise ArtifactError(
                f"{name} of example {row} to be {values[~same][0]:.6g}",
                got=f"{other[~same][0]:.6g}",
                where=folder / FILE,
                repair=repair,
            )
    return rows.num_rows


def _asked(model: Model, rows: pa.Table, field: str | None) -> dict[str, np.ndarray]:
    """Posteriors of all scalar columns, and embeddings."""
    from .tables import arrays_of

    columns = {}
    if model.trained.tokenizers.scalar is not None:
        given = [BEFORE] if model.trained.sequence["order"] == "fixed" else None  # it can be asked nothing else
        columns = arrays_of(model.predict(rows, given=given, familiarity=False, field=field))
    columns |= arrays_of(model.embed(rows, field=field))
    ids = np.array([str(name) for name in columns.pop("id")])
    return {"id": ids} | {name: values for name, values in columns.items() if not name.endswith(("_pit", "_crps"))}


# --------------------------------------------------------------------------------- rows as arrays


def pack(rows: pa.Table) -> dict[str, np.ndarray]:
    """Columns of ids, numbers and lists of numbers as arrays; :func:`unpack` is the inverse, up to the kind of id.

    >>> unpack(pack(pa.table({"id": ["a"], "flux": [[1.0, 2.0]]}))).to_pydict()
    {'id': ['a'], 'flux': [[1.0, 2.0]]}
    """
    arrays: dict[str, np.ndarray] = {}
    for name in rows.column_names:
        column = one_array(rows.column(name))
        if list_value_type(column.type) is not None or pa.types.is_null(column.type):
            flat, offsets, there = list_column_ragged(column, name)
            arrays |= {f"list/{name}": flat, f"offsets/{name}": offsets, f"there/{name}": there}
        elif is_number(column.type):
            arrays[f"number/{name}"] = numbers(column, name)
        else:
            arrays[f"text/{name}"] = np.array([str(value) for value in column.to_pylist()])
    return arrays


def unpack(arrays: dict[str, np.ndarray]) -> pa.Table:
    """See :func:`pack`."""
    columns: dict[str, Any] = {}
    for key, values in arrays.items():
        kind, _, name = key.partition("/")
        if kind == "number":
            columns[name] = pa.array(values, from_pandas=True)
        elif kind == "text":
            columns[name] = pa.array(values.tolist(), pa.string())
        elif kind == "list":
            offsets, there = arrays[f"offsets/{name}"], arrays[f"there/{name}"]
            if offsets[0] or (np.diff(offsets) < 0).any() or offsets[-1] != len(values):
                raise ValueError(f"rows of {name} that begin elsewhere")
            columns[name] = pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()), pa.array(values), mask=pa.array(~there.astype(bool))
            )
    return pa.table(columns)
