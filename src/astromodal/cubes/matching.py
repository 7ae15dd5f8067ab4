"""Who is whom in two catalogues: by id, or the nearest on the sky, one to one.

On the sky a pair is taken if each is the other's nearest within the radius. That decides every pair by its own
neighbourhood: whichever field or process asks, in whatever order, the answer is the same, and no row of the further
catalogue is given twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..files.ids import normalize_ids
from .staging import DEC, ID, RA, Staged

ARCSEC = 1.0 / 3600.0


@dataclass(frozen=True)
class Matches:
    """Rows of a further catalogue for n objects, and what was found."""

    rows: np.ndarray  # (n,) int64; -1: none
    counts: dict[str, int]  # matched, unmatched, ambiguous, taken


def by_id(ids: np.ndarray, further: Staged) -> Matches:
    """The rows with the objects' ids (text, "" for none); of several rows the first one is taken.

    ``ambiguous`` counts objects whose id stands in more than one row.
    """
    known = ids != ""
    rows = np.full(len(ids), -1)
    number = np.zeros(len(ids), np.int64)
    rows[known], number[known] = further.with_ids(ids[known])
    found = np.flatnonzero(rows >= 0)
    if len(found):  # hashes of 64 bits may collide: compare the text
        theirs = np.asarray(further.take(rows[found], (ID,)).column(ID).to_pylist(), dtype=object)
        rows[found[theirs != ids[found].astype(object)]] = -1
    matched = rows >= 0
    counts = {
        "matched": int(matched.sum()),
        "unmatched": int((~matched).sum()),
        "ambiguous": int((matched & (number > 1)).sum()),
        "taken": 0,
    }
    return Matches(rows, counts)


def on_sky(
    ra: np.ndarray, dec: np.ndarray, first: Staged, own: np.ndarray, further: Staged, radius: float, drop: bool
) -> Matches:
    """Mutually nearest neighbours within ``radius`` (arcsec).

    Args:
        ra, dec: of the n objects, degrees; NaN: without position, never matched.
        first: the whole first catalogue, whose objects beyond the field may be nearer; own: its rows of the n objects.
        drop: objects with more than one counterpart within the radius get none.

    ``ambiguous`` counts objects with more than one counterpart, ``taken`` those whose every counterpart is nearer to
    another object, or has another as its nearest.
    """
    rows = np.full(len(ra), -1)
    centre = circle(ra, dec)
    if centre is None:
        return Matches(rows, {"matched": 0, "unmatched": len(ra), "ambiguous": 0, "taken": 0})
    margin = radius * ARCSEC
    theirs = further.near(centre[0], centre[1], centre[2] + margin)
    rivals = np.setdiff1d(first.near(centre[0], centre[1], centre[2] + 2 * margin), own)
    placed = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    all_ra, all_dec = _positions(first, rivals)
    all_ra, all_dec = np.concatenate([ra[placed], all_ra]), np.concatenate([dec[placed], all_dec])
    i, j, away = _pairs(all_ra, all_dec, *_positions(further, theirs), margin)
    nearest_i, nearest_j = _first_of(i, away, len(all_ra), j), _first_of(j, away, len(theirs), i)
    objects = np.flatnonzero(nearest_i[: len(placed)] >= 0)
    mutual = nearest_j[nearest_i[objects]] == objects
    number = np.bincount(i, minlength=len(all_ra))[: len(placed)]
    several = mutual & (number[objects] > 1)
    kept = mutual & ~several if drop else mutual
    rows[placed[objects[kept]]] = theirs[nearest_i[objects[kept]]]
    counts = {
        "matched": int(kept.sum()),
        "unmatched": len(ra) - int(kept.sum()),
        "ambiguous": int(several.sum()),
        "taken": int((~mutual).sum()),
    }
    return Matches(rows, counts)


def circle(ra: np.ndarray, dec: np.ndarray) -> tuple[float, float, float] | None:
    """Centre and radius (degrees) of a circle that holds all positions; ``None`` without positions."""
    from astropy.coordinates import angular_separation

    good = np.isfinite(ra) & np.isfinite(dec)
    if not good.any():
        return None
    a, d = np.deg2rad(ra[good]), np.deg2rad(dec[good])
    x, y, z = (np.cos(d) * np.cos(a)).mean(), (np.cos(d) * np.sin(a)).mean(), np.sin(d).mean()
    if np.sqrt(x * x + y * y + z * z) < 1e-3:  # all around: no centre
        return 0.0, 0.0, 180.0
    centre = np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))
    radius = angular_separation(centre[0], centre[1], a, d).max()
    return float(np.rad2deg(centre[0]) % 360), float(np.rad2deg(centre[1])), float(np.rad2deg(radius)) + 1e-9


def _positions(table: Staged, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    taken = table.take(rows, (RA, DEC))
    return taken.column(RA).to_numpy(), taken.column(DEC).to_numpy()


def _pairs(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs within ``radius`` degrees: indexes into both, and the distances."""
    from astropy import units
    from astropy.coordinates import SkyCoord, search_around_sky

    if not len(ra) or not len(other_ra):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    one, other = (SkyCoord(a, d, unit="deg") for a, d in ((ra, dec), (other_ra, other_dec)))
    i, j, away, _ = search_around_sky(one, other, radius * units.deg)
    return i, j, away.deg


def _first_of(index: np.ndarray, away: np.ndarray, n: int, partner: np.ndarray) -> np.ndarray:
    """The nearest partner of each of n, -1 where there is none; of equally near ones that of the lowest number."""
    nearest = np.full(n, -1)
    order = np.lexsort((partner, away, index))
    numbers, first = np.unique(index[order], return_index=True)
    nearest[numbers] = partner[order][first]
    return nearest


def as_ids(column: pa.Array) -> np.ndarray:
    """A column with ids of another catalogue as text, "" where an object has none (null, or not above 0)."""
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        known = pc.fill_null(pc.greater(column, 0), False)
    else:
        known = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False)
    known = known.to_numpy(zero_copy_only=False).astype(bool)
    ids = np.full(len(column), "", dtype="<U64")
    if known.any():
        ids[known] = normalize_ids(column.filter(pa.array(known)))
    return ids
