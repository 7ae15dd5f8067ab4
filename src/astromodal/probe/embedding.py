"""Embeddings of objects by mean and by fitted attention side by side: ``embeddings.parquet``, a catalogue.

One row per object in the order of the token files: ``id, field, split``, ``embedding_mean`` ``(D,)`` and the pooled
states of the attention that was fitted for a label, ``embedding_attention`` ``(Q * D,)``, query by query; of several
labels ``embedding_attention_<label>`` each. Both pool the same states, of a model that was shown none of the labels.
Null where an object has nothing of what the model is shown. Memory holds one window of objects, whatever the size of
the survey.

Shapes: m objects of a window, D width, Q queries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..ask import catalogue as cat
from ..ask.engine import pooled
from ..ask.prefixes import Slots
from ..data.splits import SPLIT_NAMES
from ..files.ids import normalize_ids
from ..provenance.manifest import fingerprint_file
from ..sequences.slots import check_field
from ..tokens.store import FieldTokens
from .frozen import Frozen
from .pooling import FittedAttention
from .states import SLOT_CELLS, HiddenStates

_OUTPUT_CELLS = 1 << 23  # numbers of a window's embeddings
MEAN = "embedding_mean"


def write_embeddings(
    path: Path, frozen: Frozen, fitted: FittedAttention, places: np.ndarray | None = None, source: Path | None = None
) -> dict[str, int]:
    """Embeddings of objects as a file that is there only when it is whole.

    Args:
        places: ``(k, 2)`` number of the field and row in it; None: every object.
        source: the file of fitted attention, whose fingerprint is written down.

    Returns:
        ``objects`` and how many of them are ``without_embedding``.

    Raises:
        ArtifactError: tokens do not belong to the model, or the disk is full; no file is left half-written.
    """
    sizes = _sizes(frozen, fitted)
    fields = [pa.field(name, pa.list_(pa.float32(), size)) for name, size in sizes.items()]
    lacking = 0
    with cat.writing_catalogue(path, cat.make_schema(fields, meaning(frozen, fitted, source))) as out:
        step = _window_rows(frozen, sum(sizes.values()))
        for number, field in enumerate(frozen.tokens):
            check_field(field, frozen.trained.layout)
            wanted = np.arange(len(field)) if places is None else np.unique(places[places[:, 0] == number, 1])
            for start in range(0, len(field) if len(wanted) else 0, step):
                rows = wanted[(wanted >= start) & (wanted < start + step)]
                if len(rows):
                    found = _embed(frozen, fitted, field, start, min(start + step, len(field)), rows)
                    lacking += int(np.isnan(found[MEAN]).all(1).sum())
                    out.append(_identity(field, rows) | found)
        return {"objects": out.rows, "without_embedding": lacking}


def meaning(frozen: Frozen, fitted: FittedAttention, source: Path | None) -> dict[str, Any]:
    """What the file's metadata say."""
    attention = {
        column: {
            "label": label,
            "shape": [fitted.labels[label].n_queries, frozen.trained.model.d_model],
            "is_mean": fitted.labels[label].is_mean,
        }
        for label, column in fitted.columns().items()
    }
    found = frozen.meaning() | {"hidden": list(frozen.labels), "attention": attention}
    return found if source is None else found | {"fitted": fingerprint_file(source)}


def _sizes(frozen: Frozen, fitted: FittedAttention) -> dict[str, int]:
    """Numbers of an object in each column."""
    width, columns = frozen.trained.model.d_model, fitted.columns()
    return {MEAN: width} | {columns[label]: pooling.n_queries * width for label, pooling in fitted.labels.items()}


def _window_rows(frozen: Frozen, output: int) -> int:
    """Rows that are looked at together."""
    width = 1 + sum(segment.length + 1 for segment in frozen.trained.layout.segments)
    return max(min(SLOT_CELLS // width, _OUTPUT_CELLS // output), frozen.engine.batch_size)


def _identity(field: FieldTokens, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "id": normalize_ids(np.asarray(field.ids[rows])),
        "field": np.full(len(rows), field.field),
        "split": np.array(SPLIT_NAMES)[np.asarray(field.split[rows])],
    }


def _embed(
    frozen: Frozen, fitted: FittedAttention, field: FieldTokens, start: int, stop: int, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Embeddings of ``rows (m,)`` of a field, all between ``start`` and ``stop``; NaN where nothing is shown."""
    slots, columns = Slots.read(field, start, stop, frozen.trained.layout, frozen.plan), fitted.columns()
    states = HiddenStates(frozen.engine, slots, frozen.labels)
    shown = [slots.part_number(name) for name in frozen.plan.given]
    there = np.flatnonzero(slots.present[rows - start][:, shown].any(1))
    found = {name: np.full((len(rows), size), np.nan, np.float32) for name, size in _sizes(frozen, fitted).items()}
    for batch in frozen.engine.batches(states.lengths()[rows[there] - start]):
        at = there[batch]
        hidden, lengths = states(rows[at] - start)
        parts = {MEAN: pooled(hidden, lengths, "mean")}
        parts |= {columns[label]: pooling(hidden, lengths) for label, pooling in fitted.labels.items()}
        for name, values in parts.items():
            found[name][at] = values.cpu().numpy()
    return found
