"""Passes over the objects of a survey, part by part, so that several processes may share one.

Where a part ends depends on the survey alone: sums over parts, added in their order, and samples of parts
(:class:`~astromodal.quantizers.sample.Sample`) are the same to the bit, however many workers there are and whoever is
first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.schema import WorkersConfig
from ..files.ids import hash_ids
from ..parallel.each import each

if TYPE_CHECKING:
    from ..data.datacube import Batch, Datacube

LIGHT_ROWS = 1 << 19  # of a part where catalogue columns are read
HEAVY_ROWS = 1 << 14  # where spectra are


@dataclass(frozen=True)
class Part:
    """Some rows of a field, one after the other; those that are chosen."""

    number: int  # within the pass
    cube: Datacube
    start: int
    bits: np.ndarray  # (n / 8,) uint8: the chosen ones of the rows from ``start``; all parts are held at once

    @property
    def chosen(self) -> np.ndarray:
        """Of the rows from ``start``, ``(n,)`` bool; of a field's last part a few behind its end, which are not."""
        return np.unpackbits(self.bits).astype(bool)

    def __str__(self) -> str:
        return f"field {self.cube.field}, rows from {self.start},"

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """The chosen rows and the hashes (n,) of their ids, which the columns need not name, ``rows`` at a time."""
        mask = np.zeros(self.cube.n_rows, bool)
        part = mask[self.start :]
        chosen = self.chosen[: len(part)]
        part[: len(chosen)] = chosen
        for batch in self.cube.batches([*columns, self.cube.data.id_column], rows, mask):
            yield batch, hash_ids(self.cube.batch_ids(batch))


def parts(cubes: Sequence[Datacube], masks: Mapping[str, np.ndarray], n_rows: int) -> list[Part]:
    """Parts of at most ``n_rows`` rows with at least one chosen row each, in the order of the cubes."""
    made: list[Part] = []
    for cube in cubes:
        mask = np.asarray(masks[cube.field], bool)
        for start in range(0, cube.n_rows, n_rows):
            chosen = mask[start : start + n_rows]
            if chosen.any():
                made.append(Part(len(made), cube, start, np.packbits(chosen)))
    return made


def over_parts(
    function: Callable[..., Any],
    of: Sequence[Part],
    workers: WorkersConfig | None,
    shared: tuple,
    early: Callable[[Any], Any] = lambda result: result,
) -> list[Any]:
    """``function(part, *shared)`` of all parts, in their order.

    Args:
        early: makes something small of a result as soon as it is there, in any order (takes in a sample, say), so that
            large ones need not wait for each other.
    """
    results: list[Any] = [None] * len(of)
    for part, result in each(function, of, workers, shared=shared, done="read"):
        results[part.number] = early(result)
    return results
