"""Objects within an arcsecond of each other, over a whole survey: groups of friends of friends, strip after strip.

The sky is cut into strips of declination of some ten thousand objects. Neighbours never lie further apart in
declination than on the sky, so that a strip needs to know of the one below it only what lies within the radius of their
border: no seam in right ascension, and none at the poles. Groups that reach a border are put together at the end; they
are all that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .on_disk import Dealt

FRIENDS_ARCSEC = 1.0
STRIP_ARCSEC = 4.0  # the lowest strip; more than the radius
N_STRIPS = int(180 * 3600 / STRIP_ARCSEC)
MEMBER = np.dtype([("key", "<u8"), ("ra", "<f8"), ("dec", "<f8"), ("row", "<i8"), ("split", "u1")])


def unit_vectors(positions: np.ndarray) -> np.ndarray:
    """Directions of ``(n, 2)`` degrees, ``(n, 3)``: no seam at RA 0 and no singularity at the poles."""
    ra, dec = np.deg2rad(positions).T
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def strip_of(dec: np.ndarray) -> np.ndarray:
    """The strip of ``STRIP_ARCSEC`` in which a declination (n,) in degrees lies, ``(n,)`` int64."""
    return np.clip(((dec + 90.0) * (3600.0 / STRIP_ARCSEC)).astype(np.int64), 0, N_STRIPS - 1)


def pairs_within(positions: np.ndarray, radius_arcsec: float = FRIENDS_ARCSEC) -> np.ndarray:
    """Pairs of rows of ``(n, 2)`` degrees that lie within the radius, ``(p, 2)``."""
    from scipy.spatial import cKDTree

    if len(positions) < 2:
        return np.empty((0, 2), np.int64)
    chord = 2.0 * np.sin(np.deg2rad(radius_arcsec / 3600.0) / 2.0)
    return cKDTree(unit_vectors(positions)).query_pairs(chord, output_type="ndarray")


def groups(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Members ``(m,)``, rising, of the connected components of ``pairs`` (p, 2), and the component of each ``(m,)``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, index = np.unique(pairs, return_inverse=True)  # only objects with neighbours enter the graph
    index = index.reshape(-1, 2)
    graph = coo_array((np.ones(len(index), bool), (index[:, 0], index[:, 1])), shape=(len(nodes), len(nodes)))
    return nodes, connected_components(graph, directed=False)[1]


def speakers(component: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """For each member (m,) the one of its component with the smallest of the ``keys`` (m,): which, ``(m,)``."""
    order = np.lexsort((keys, component))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(component[order]) > 0]))
    return order[starts][component]


def splits_of_groups(strips: Dealt) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows (m,) whose group speaks for another split than their own, and that split (m,).

    Args:
        strips: ``MEMBER`` records, dealt out by :func:`strip_of`.
    """
    below, at_border = np.empty(0, MEMBER), list[np.ndarray]()
    for members, last in zip(strips, strips.last_bin, strict=True):
        end = (last + 1) * (STRIP_ARCSEC / 3600.0) - 90.0
        near_end = members["dec"] > end - 1.1 * FRIENDS_ARCSEC / 3600.0
        border = np.concatenate([np.ones(len(below), bool), near_end])
        here, below = np.concatenate([below, members]), members[near_end]
        pairs = pairs_within(np.stack([here["ra"], here["dec"]], 1))
        if not len(pairs):
            continue
        nodes, component = groups(pairs)
        reaches = np.bincount(component, weights=border[nodes]) > 0  # maybe more of it lies in another strip
        reaching = reaches[component[np.searchsorted(nodes, pairs[:, 0])]]
        at_border.append(here[pairs[reaching]])
        inner = ~reaches[component]
        yield from _changed(here[nodes[inner]], component[inner])
    if at_border:
        pairs = np.concatenate(at_border)  # (p, 2) records
        if len(pairs):
            component = groups(pairs["row"])[1]
            _, first = np.unique(pairs["row"].reshape(-1), return_index=True)
            yield from _changed(pairs.reshape(-1)[first], component)


def _changed(members: np.ndarray, component: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if len(members):
        spoken = members["split"][speakers(np.unique(component, return_inverse=True)[1], members["key"])]
        other = spoken != members["split"]
        if other.any():
            yield members["row"][other], spoken[other]
