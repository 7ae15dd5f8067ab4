"""Some rows of a source as a source of their own: what lies in a cone on the sky."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...errors import ConfigError
from ...provenance.fingerprints import fingerprint_arrays, fingerprint_config

if TYPE_CHECKING:
    from .layouts import Source


class Subset:
    """The rows ``rows`` (ascending numbers) of a source, numbered anew. Attributes as those of the source."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.whole, self.rows = source, np.asarray(rows, np.int64)
        self.n_rows, self.path, self.where = len(rows), source.path, source.where
        self.files = source.files
        self.schema, self.lacking = source.schema, source.lacking

    @property
    def kind(self) -> str:
        """What this is, for reports."""
        return f"{self.whole.kind}, {self.n_rows} of {self.whole.n_rows} rows"

    def units(self) -> Mapping[str, str]:
        """Units that the file states, by column."""
        return self.whole.units()

    def fingerprint(self) -> str:
        """Hash of the content and of the choice of rows."""
        return fingerprint_config({"source": self.whole.fingerprint(), "rows": fingerprint_arrays({"": self.rows})})

    def batches(
        self, names: Sequence[str], rows: int, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Columns of the rows, and the number of the first one, as the source gives them."""
        inside = np.zeros(self.whole.n_rows, bool)
        inside[self.rows if wanted is None else self.rows[wanted]] = True
        for table, first in self.whole.batches(names, rows, inside):
            low, high = np.searchsorted(self.rows, [first, first + table.num_rows])
            if high > low:
                yield table.take(pa.array(self.rows[low:high] - first)), int(low)


def check_cone(cone: Sequence[float]) -> tuple[float, float, float]:
    """Right ascension, declination and radius of ``data.cone`` in degrees.

    Raises:
        ConfigError: not three numbers that make a circle on the sky.
    """
    if len(cone) != 3 or not (-90 <= cone[1] <= 90 and 0 < cone[2] <= 180):
        raise ConfigError("data.cone=[ra,dec,radius] in degrees", got=list(cone), where="data.cone")
    return cone[0], cone[1], cone[2]


def in_cone(positions: np.ndarray, cone: Sequence[float]) -> np.ndarray:
    """Which of some positions (n, 2), in degrees, lie within a cone, ``(n,)`` bool; those that are not known do not."""
    from astropy.coordinates import angular_separation

    (ra, dec), (centre_ra, centre_dec, radius) = np.radians(positions).T, np.radians(check_cone(cone))
    with np.errstate(invalid="ignore"):
        return angular_separation(ra, dec, centre_ra, centre_dec) <= radius
