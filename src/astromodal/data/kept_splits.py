"""The splits of a large survey, kept in its store: later stages, and other processes of the same one, then read a byte
per object instead of all ids and positions.

    splits/rows.u1         split of each object, in the order of the datacubes
    splits/splits.json     what they were made from, objects in each split, fingerprint of rows.u1

They stand for a survey while its files have the sizes, times and inodes that they had, its rows their number, and the
configuration its section ``data``; its ids are known to be unique then, too. Anything else, damage included, only means
that ids and positions are read again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ArtifactError
from ..files.atomic import atomic_path
from ..files.json_files import plain
from ..provenance.fingerprints import fingerprint_config
from ..provenance.remembered import fingerprint_file, is_settled, stamp_of
from ..provenance.sealed import read_sealed, write_sealed
from .on_disk import Records, SurveyKeys, check_unique_ids
from .splits import Splits, assign_splits

if TYPE_CHECKING:
    from ..config.schema import DataConfig
    from .datacube import Datacube

KEPT_ROWS = 100_000  # smaller surveys are read in a moment
_SPLIT = np.dtype(np.uint8)

log = logging.getLogger(__name__)


class KeptSplits:
    """The splits that a store keeps of a survey.

    Args:
        store: folder of tokenizers and tokens.
        cubes: the survey, in its order.
        data: its section of the configuration.
    """

    def __init__(self, store: Path, cubes: Sequence[Datacube], data: DataConfig) -> None:
        self._rows, self._record = store / "splits" / "rows.u1", store / "splits" / "splits.json"
        self._cubes, self._n = cubes, sum(cube.n_rows for cube in cubes)
        self._stamps = {str(file): stamp_of(file) for cube in cubes for file in cube.source.files if self._is_large}
        fields = [(cube.field, cube.n_rows, [str(file) for file in cube.source.files]) for cube in cubes]
        self._of = fingerprint_config({"data": plain(asdict(data)), "fields": fields, "stamps": self._stamps})

    @property
    def _is_large(self) -> bool:
        return self._n >= KEPT_ROWS

    def read(self) -> Splits | None:
        """The splits of this survey, whose ids are unique; None where they are not kept."""
        if not self._is_large or not self._record.is_file():
            return None
        try:
            record = read_sealed(self._record)
            if record.get("of") != self._of or record.get("rows") != fingerprint_file(self._rows):
                return None
            records = Records(_SPLIT, self._rows)
            counts = np.array(record["counts"], np.int64)
        except (ArtifactError, OSError, KeyError, ValueError, TypeError):
            return None
        return Splits(self._cubes, records, counts) if len(records) == self._n == counts.sum() else None

    def write(self, splits: Splits) -> None:
        """Keep the splits of a survey whose ids are unique. That only saves time: where it fails, it says so."""
        if not self._is_large or not all(map(is_settled, self._stamps.values())):
            return
        try:
            with atomic_path(self._rows) as path, open(path, "wb") as file:
                for field in splits:
                    file.write(splits[field].tobytes())
            rows = fingerprint_file(self._rows)
            write_sealed(self._record, {"of": self._of, "rows": rows, "counts": splits.counts.tolist()})
        except (ArtifactError, OSError) as error:
            log.warning("the splits are not kept, so ids and positions are read again next time: %s", error)


def splits_of_survey(store: Path, cubes: Sequence[Datacube], data: DataConfig) -> Splits:
    """Split of every object: the kept ones, else made anew from ids and positions, and kept.

    Raises:
        ConfigError, DataError: as :func:`.splits.assign_splits`, and where an id stands in more than one row.
    """
    kept = KeptSplits(store, cubes, data)
    splits = kept.read()
    if splits is None:
        keys = SurveyKeys(cubes)
        check_unique_ids(cubes, keys)
        splits = assign_splits(cubes, data, keys)
        kept.write(splits)
    return splits
