"""What a model has seen: the objects of its training run, found again by id and by place on the sky.

A model is judged on objects that it did not train on, wherever they come from. Objects of other token files or new
datacubes are therefore not divided again; each is looked up among the objects of the model's own run:

* the same object (its id, or within one arcsecond) is what it was there: training, validation or test;
* an object of equal id that stands elsewhere on the sky is another one (catalogues count from 1);
* all others were never seen, and count as test.

Shapes: m objects of the training run, n asked ones.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from omegaconf import OmegaConf

from ..config.reading.containers import to_object
from ..config.schema import DataConfig
from ..data import discover
from ..data.neighbours import FRIENDS_ARCSEC, unit_vectors
from ..data.splits import SPLIT_NAMES, TEST, has_position
from ..errors import ArtifactError, ArtifactMissingError, UserError
from ..files.ids import hash_ids
from ..files.io import read_json
from ..tokens.store import FieldTokens, TokenStore
from .catalogue import OF_MODEL
from .trained import run_folder

if TYPE_CHECKING:
    from ..data.datacube import Datacube

OTHER_ARCSEC = 60.0  # equal ids further apart than this are two objects: no star moves so far between two catalogues


@dataclass
class SeenObjects:
    """The objects of a model's run. ``hashes (m,)`` of ids rise; ``split (m,)``; ``positions (m, 2)`` deg, NaN unknown.

    ``counts`` adds up what was looked up: by split, and ``unseen``, ``elsewhere`` (equal id, another place).
    """

    hashes: np.ndarray
    split: np.ndarray
    positions: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, store: TokenStore, cubes: Sequence[Datacube] = ()) -> Self:
        """Read ids and splits of token files, and positions of the datacubes that they were made from."""
        parts = [(hash_ids(tokens.ids), np.asarray(tokens.split)) for tokens in store]
        hashes, split = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(hashes, kind="stable")
        found = cls(hashes[order], split[order], np.full((len(order), 2), np.nan))
        for cube in cubes:
            at, known = found._places(hash_ids(cube.ids()))
            found.positions[at[known]] = cube.positions()[known]
        return found

    def _places(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place of each of ``(n,)`` hashes among those seen, and whether it is there."""
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return at, self.hashes[at] == hashes

    @cached_property
    def _tree(self) -> tuple[Any, np.ndarray] | None:
        """Directions of the objects with a position, for neighbours, and which objects these are."""
        from scipy.spatial import cKDTree

        rows = np.flatnonzero(has_position(self.positions))
        return (cKDTree(unit_vectors(self.positions[rows])), rows) if len(rows) else None

    def splits(self, ids: Any, positions: np.ndarray | None = None) -> np.ndarray:
        """What each asked object was in the model's run, ``(n,)`` uint8; TEST for those that it never saw.

        Args:
            ids: ``(n,)``.
            positions: ``(n, 2)`` in degrees, NaN where unknown; None: compared by id only.
        """
        at, same = self._places(hash_ids(ids))
        if positions is not None and self._tree is not None:
            known = has_position(positions)
            both = np.flatnonzero(same & known & has_position(self.positions[at]))
            gap = np.linalg.norm(unit_vectors(positions[both]) - unit_vectors(self.positions[at[both]]), axis=1)
            elsewhere = both[gap > _chord(OTHER_ARCSEC)]
            same[elsewhere] = False
            self.counts["elsewhere"] += len(elsewhere)
            rest = np.flatnonzero(known & ~same)
            tree, rows = self._tree
            gap, nearest = tree.query(unit_vectors(positions[rest]), distance_upper_bound=_chord(FRIENDS_ARCSEC))
            close = np.isfinite(gap)
            at[rest[close]], same[rest[close]] = rows[nearest[close]], True
        split = np.where(same, self.split[at], TEST).astype(np.uint8)
        self.counts["unseen"] += int((~same).sum())
        for k, name in enumerate(SPLIT_NAMES):
            self.counts[name] += int((same & (split == k)).sum())
        return split

    def said(self) -> str:
        """The objects looked up so far, in words."""
        c = self.counts
        known = ", ".join(
            f"{c[name]} {of}"
            for name, of in zip(SPLIT_NAMES, ("that it trained on", "of its validation", "of its test"), strict=True)
        )
        other = f"; {c['elsewhere']} have the id of another object" if c["elsewhere"] else ""
        return f"{c['unseen']} objects that the model never saw, {known}{other}"


def _chord(arcsec: float) -> float:
    return 2.0 * np.sin(np.deg2rad(arcsec / 3600.0) / 2.0)


@dataclass
class TrainingRun:
    """Token files that a model was trained on, and why they cannot be had where ``store`` is None."""

    store: TokenStore | None
    why: str = ""
    cubes: Sequence[Datacube] = ()

    @property
    def tokens(self) -> TokenStore:
        """Its token files.

        Raises:
            ArtifactMissingError: they cannot be had; with why.
        """
        if self.store is None:
            raise ArtifactMissingError("the token files that the model was trained on", got=self.why)
        return self.store

    @cached_property
    def seen(self) -> SeenObjects:
        """Its objects; read when first asked for."""
        try:
            return SeenObjects.of(self.tokens, self.cubes)
        except UserError:  # datacubes that cannot be read any more: compared by id only
            return SeenObjects.of(self.tokens)

    def about(self, otherwise: str) -> dict[str, Any]:
        """For a catalogue: whose splits it has, ``otherwise`` where nobody knows the run, and what that read."""
        if self.store is None:
            return {"splits": otherwise}
        return {"splits": OF_MODEL, "trained_on": self.store.fingerprint}

    def reads(self, asked: TokenStore) -> bool:
        """Whether these are the token files of the run, or files beside them."""
        return asked.folder.resolve() == self.tokens.folder.resolve()

    def with_split(self, tokens: FieldTokens, asked: TokenStore, positions: np.ndarray | None) -> FieldTokens:
        """A field of other token files, with what its objects were in the model's run."""
        if self.reads(asked) and tokens.field in self.tokens.entries:
            return tokens  # the very same files
        return replace(tokens, split=self.seen.splits(tokens.ids, positions))


def training_run(weights: Path) -> TrainingRun:
    """The token files of the run that made a file of weights, if they are still those, and its datacubes, if there."""
    folder = run_folder(weights)
    try:
        if folder is None:
            raise ArtifactMissingError("run.json beside the weights", got="none", where=weights.parent)
        config, record = read_json(folder / "config.json"), read_json(folder / "run.json")
        bases = (Path.cwd(), *folder.parents)  # relative to where it was started
        store = _store(bases, config, record)
    except (UserError, KeyError) as error:
        return TrainingRun(None, str(error))
    try:
        data = to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), config["data"]), DataConfig)
        template = Path(config["paths"]["datacube_template"])
        place = next((base / template for base in bases if (base / template).parent.exists()), template)
        return TrainingRun(store, cubes=discover(data, str(place)))
    except (UserError, OSError, KeyError, ValueError):
        return TrainingRun(store)  # compared by id only


def _store(bases: Sequence[Path], config: Mapping[str, Any], record: Mapping[str, Any]) -> TokenStore:
    """Raises: ArtifactMissingError, ArtifactError: the files are gone, or others than those that were trained on."""
    own = Path(config["paths"]["store"])
    root = next((p for base in bases if ((p := base / own) / "tokens").is_dir()), own)
    store, fields = TokenStore(root), (config.get("data") or {}).get("fields")
    store = store if fields is None else store.select(list(fields))
    expected = record.get("inputs", {}).get("tokens")
    if store.fingerprint != expected:
        raise ArtifactError(
            f"the token files {expected} that the model was trained on", got=store.fingerprint, where=store.folder
        )
    return store


def warn_unknown(run: TrainingRun, log: logging.Logger, otherwise: str) -> None:
    """Say that what the model has seen is not known, and what is done instead."""
    log.warning("what the model was trained on cannot be had (%s): %s", run.why, otherwise)
