"""Tokens as a table, and values from it: one column for each scalar, one list for each group of spectra and the cutout.

Of a group, or a cutout, whose code has several stages, the list has the codes of the first stage, then those of the
second.

Shapes: n objects, L tokens of a part, S stages, X numbers of a decoded object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..ask.catalogue import as_column
from ..data.columns import list_column_to_matrix, numbers
from ..data.scalars import SCALE_SUFFIX, inverse_transform
from ..errors import DataError
from ..tokenizers.fitted import needed
from ..vocabulary.vocab import stages_of
from .tables import UNIT

if TYPE_CHECKING:
    from ..ask.trained import TrainedModel
    from ..tokenizers.scalar import ScalarTokenizer
    from ..tokens.store import FieldTokens

IMAGE, WHERE = "image", "tokens"


def _lists(trained: TrainedModel) -> dict[str, tuple[str, ...]]:
    """Groups of spectra and the image, and the parts that their codes are in."""
    spectrum = trained.tokenizers.spectrum
    found = {} if spectrum is None else {name: tuple(parts) for name, parts in stages_of(list(spectrum.parts)).items()}
    found = {name: found.get(name, (name,)) for name in ([] if spectrum is None else spectrum.codecs)}
    return found | ({} if trained.tokenizers.image is None else {IMAGE: trained.tokenizers.image.parts})


def _length(trained: TrainedModel, part: str) -> int:
    image = trained.tokenizers.image
    if image is not None and part in image.parts:
        return image.length(part)
    return needed(trained.tokenizers.spectrum, "spectrum").length(part)


def token_table(tokens: FieldTokens | None, trained: TrainedModel) -> pa.Table:
    """Tokens of objects as a table; of None, one without rows."""
    n = 0 if tokens is None else len(tokens)
    columns: dict[str, pa.Array] = {"id": pa.array([] if tokens is None else tokens.ids, pa.string())}
    scalar = trained.tokenizers.scalar
    for j, name in enumerate(() if scalar is None else scalar.columns):
        codes = np.zeros(0, np.uint16) if tokens is None else tokens.scalar["tokens"][:, j]
        columns[name] = pa.array(codes, mask=np.zeros(0, bool) if tokens is None else ~tokens.scalar["present"][:, j])
    for name, parts in _lists(trained).items():
        blocks: list[np.ndarray] = []
        present: np.ndarray = np.zeros(n, bool)
        for part in parts:
            block: np.ndarray = np.zeros((n, _length(trained, part)), np.uint16)
            if tokens is not None and part == IMAGE:
                block, present = np.asarray(tokens.image["tokens"]), np.asarray(tokens.image["present"])
            elif tokens is not None:
                own = tokens.spectra[part]
                present = np.asarray(own.present)
                block[present] = own.tokens.reshape(-1, own.length)
            blocks.append(block)
        flat = np.ascontiguousarray(np.concatenate(blocks, axis=1))
        codes, none = pa.array(flat.reshape(-1)), pa.array(~present)
        columns[name] = pa.FixedSizeListArray.from_arrays(codes, flat.shape[1], mask=none)
    return pa.table(columns)


def value_schema(trained: TrainedModel) -> pa.Schema:
    """Columns of :func:`values_of`, in the survey's units."""
    fields = [pa.field("id", pa.string())]
    scalar, spectrum, image = trained.tokenizers.scalar, trained.tokenizers.spectrum, trained.tokenizers.image
    for name, config in {} if scalar is None else scalar.configs.items():
        fields.append(_field(name, pa.float64(), config.unit))
    if spectrum is not None:
        for name, codec in spectrum.codecs.items():
            kind = pa.list_(pa.float64(), codec.n_pixels)
            fields.append(_field(name, kind, spectrum.layout_["spectra"][name]["unit"]))
    if image is not None:
        size = int(np.prod(image.fitted().array_shape))
        fields.append(_field(IMAGE, pa.list_(pa.float64(), size), "nanomaggies per pixel above the sky"))
    return pa.schema(fields)


def _field(name: str, kind: pa.DataType, unit: str) -> pa.Field:
    return pa.field(name, kind, metadata={UNIT: unit.encode()} if unit else None)


def values_of(table: pa.RecordBatch, trained: TrainedModel) -> pa.Table:
    """Values of tokens; null where there are none. A spectrum is in physical units times its scale's token, if there
    is a column for it.

    Raises:
        DataError: tokens of another length, or beyond the codebook.
    """
    n, schema, names = table.num_rows, value_schema(trained), table.schema.names
    scalar = trained.tokenizers.scalar
    found = {} if scalar is None else _scalars(table, scalar)
    for name, parts in _lists(trained).items():
        kind = schema.field(name).type
        found[name] = np.full((n, kind.list_size), np.nan)
        if name in names:
            length = sum(_length(trained, part) for part in parts)
            codes, there = list_column_to_matrix(table.column(name), length, f"{WHERE}, column {name}")
            there = there.copy()
            if there.any():
                scale = found.get(f"{name}{SCALE_SUFFIX}")
                if scale is not None:
                    there &= np.isfinite(scale)
                factor = None if scale is None else scale[there]
                found[name][there] = _decoded(trained, name, parts, codes[there], factor)
    ids = table.column("id") if "id" in names else pa.array([str(i) for i in range(n)])
    arrays = [ids.cast(pa.string()) if f.name == "id" else as_column(found[f.name], f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _scalars(table: pa.RecordBatch, scalar: ScalarTokenizer) -> dict[str, np.ndarray]:
    """Values ``(n,)`` of every column, NaN where there is no token."""
    found = {}
    for j, (name, config) in enumerate(scalar.configs.items()):
        found[name] = np.full(table.num_rows, np.nan)
        if name in table.schema.names:
            codes = _codes(numbers(table.column(name), name)[:, None], scalar.n_bins[j], name)
            there = codes[:, 0] >= 0
            found[name][there] = inverse_transform(scalar.binners[j].decode(codes[there, 0])[:, 0], config)
    return found


def _decoded(
    trained: TrainedModel, name: str, parts: tuple[str, ...], codes: np.ndarray, scale: np.ndarray | None
) -> np.ndarray:
    """Flux ``(m, X)`` of codes ``(m, S * L)``."""
    image, spectrum = trained.tokenizers.image, trained.tokenizers.spectrum
    books = needed(image, name).codebooks() if name == IMAGE else needed(spectrum, "spectrum").codebooks()
    split = np.split(codes, np.cumsum([_length(trained, part) for part in parts])[:-1], axis=1)
    own = [_codes(block, len(books[part].entries), name) for part, block in zip(parts, split, strict=True)]
    if name == IMAGE:
        return needed(image, name).decode_parts(own).flux.reshape(len(codes), -1)
    flux = needed(spectrum, "spectrum").decode_parts(name, own).astype(np.float64)
    return flux if scale is None else flux * scale[:, None]


def _codes(values: np.ndarray, size: int, name: str) -> np.ndarray:
    """Codes as integers; NaN, of a scalar that is missing, is -1."""
    codes = np.where(np.isnan(values), -1, values).astype(np.int64)
    if codes.size and (codes.max() >= size or codes.min() < (-1 if values.shape[1] == 1 else 0)):
        raise DataError(f"codes of {name} below {size}", got=int(codes.max()), where=WHERE)
    return codes
