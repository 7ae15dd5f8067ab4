"""Species checklists from eBird's Basic Dataset (EBD) as it is downloaded, read as a stream.

The file is tab-separated with one header line; fields are never quoted, though comments are full of quote characters;
lines may end in a further tab. A row is one taxon of one checklist, a checklist's rows stand anywhere in the file. The
optional second file, of sampling events, has one row per checklist, those without any species included. Format and
rules are those of eBird's own R package auk (Strimas-Mackey, Miller & Hochachka 2018):

- kept are complete checklists (ALL SPECIES REPORTED = 1) of the two standard protocols, Stationary and Traveling;
- the protocol's column is PROTOCOL TYPE until 2025, then PROTOCOL NAME, in some downloads OBSERVATION TYPE;
- subspecies groups (issf), intergrades, forms and domestic types count as their species, also the domestic types that
  have a scientific name of their own (which auk drops). Forms that are no known species' (eBird's taxonomy reports them
  as nothing else: undescribed and unrecognised ones) are taxa of their own, under their whole name. Taxa above species
  (spuh, slash, hybrid) are dropped;
- copies of a checklist that observers share have one GROUP IDENTIFIER and become one checklist with the species of all;
- a count may be ``X`` (present, not counted).

Files that R or pandas have written back are read too: ``NA`` for an empty group identifier, TRUE and FALSE for 1 and 0,
several sampling events of one shared checklist in a row (as auk_unique leaves them).

Memory holds one block of the file and what is kept: an id per checklist, eight bytes per presence.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from ...files.text_files import decoded
from .tab_separated import TabReader

_EMPTY = "NA|N/A|NULL|None|nan|NaN"  # what other programs write for nothing
_OWN = re.compile(r"^\S+ (\[|\(undescribed)|\[unrecognized species\]$")
STANDARD_PROTOCOLS = (
    "Stationary",
    "Traveling",
    "eBird - Stationary Count",
    "eBird - Traveling Count",
)  # new, before 2017
SPECIES_LEVEL = ("species", "issf", "intergrade", "form", "domestic")  # categories that can be told to a species
EVENT_COLUMNS = {  # what we call it -> what the file may call it, the first that is there
    "event": ("SAMPLING EVENT IDENTIFIER",),
    "group": ("GROUP IDENTIFIER",),
    "complete": ("ALL SPECIES REPORTED",),
    "protocol": ("PROTOCOL NAME", "PROTOCOL TYPE", "OBSERVATION TYPE"),
}
COLUMNS = EVENT_COLUMNS | {
    "category": ("CATEGORY",),
    "scientific": ("SCIENTIFIC NAME",),
    "common": ("COMMON NAME",),
    "count": ("OBSERVATION COUNT",),
}


@dataclass
class Checklists:
    """Who was seen on which checklist: presence ``k`` is species ``columns[k]`` on checklist ``rows[k]``, each once."""

    ids: list[str]  # group identifier, of a checklist that is not shared its sampling event identifier
    species: list[str]  # scientific names
    common_names: list[str]
    rows: np.ndarray  # (n,) int32
    columns: np.ndarray  # (n,) int32
    counts: dict[str, int] = field(default_factory=dict)  # what was read, and what was dropped for which reason

    def __len__(self) -> int:
        return len(self.ids)

    def describe(self) -> str:
        """Size and losses in one line."""
        dropped = ", ".join(f"{name} {count:,}" for name, count in self.counts.items() if count)
        return f"{len(self.ids):,} checklists, {len(self.species):,} species, {len(self.rows):,} presences ({dropped})"


def read_checklists(
    path: str | Path, sampling_path: str | Path | None = None, nrows: int | None = None, block_bytes: int = 1 << 20
) -> Checklists:
    """Read observations and, if given, sampling events; plain text or gzip.

    Args:
        path: the observations, ``ebd_….txt``.
        sampling_path: the sampling events, ``ebd_…_sampling.txt``: adds the checklists without species.
        nrows: read only the first so many rows of ``path``; ``None`` reads all. A part of the file holds parts of
            checklists: use it for trying things out.
        block_bytes: of the text that is in memory at once.

    Raises:
        DataError: no such file, columns that are missing, or nothing that could be kept.
    """
    collector = _Collector(path)
    reader = TabReader(path, COLUMNS, block_bytes, nrows)
    for batch in reader:
        collector.observations(batch)
    collector.counted |= {
        "rows": reader.n_rows,
        "malformed": reader.n_malformed + collector.counted["malformed"],
        "rescued": reader.n_rescued,
    }
    if sampling_path is not None:
        n_known, events = len(collector.checklists), TabReader(sampling_path, EVENT_COLUMNS, block_bytes)
        for batch in events:
            collector.events(batch, "sampling_")
        collector.counted["sampling_rows"] = events.n_rows
        collector.counted["sampling_malformed"] += events.n_malformed
        collector.counted["without_observations"] = len(collector.checklists) - n_known
    if not collector.checklists:
        raise DataError(
            "complete checklists with protocol Stationary or Traveling",
            where=path,
            got=f"none; {dict(collector.counted)}",
        )
    return collector.result()


class _Collector:
    """Everything that is kept while the file passes by."""

    def __init__(self, where: object) -> None:
        self.where = where
        self.checklists: dict[bytes, int] = {}
        self.taxa: dict[bytes, int] = {}  # category, scientific and common name -> species, or minus a reason
        self.species: dict[str, int] = {}
        self.common: list[tuple[bool, str]] = []  # of each species: is it the species' own name; the name
        self.reasons: list[str] = []
        self.rows: list[np.ndarray] = []
        self.columns: list[np.ndarray] = []
        self.counted: Counter[str] = Counter()

    def events(self, batch: pa.RecordBatch, prefix: str = "") -> tuple[pa.RecordBatch, np.ndarray]:
        """Rows of the checklists to keep, and the checklist's number of each; new checklists are added."""
        good = _all_of(
            pc.match_substring_regex(batch["event"], r"^S\d+(, ?S\d+)*$"),
            pc.match_substring_regex(batch["group"], rf"^(G\d+|{_EMPTY})?$"),
            pc.match_substring_regex(batch["complete"], r"^([01]|TRUE|FALSE|True|False)$"),
        )
        batch = self._keep(batch, good, f"{prefix}malformed")
        complete = pc.match_substring_regex(batch["complete"], r"^(1|TRUE|True)$")
        batch = self._keep(batch, complete, f"{prefix}incomplete")
        standard = pa.array([name.encode() for name in STANDARD_PROTOCOLS])
        batch = self._keep(batch, pc.is_in(batch["protocol"], value_set=standard), f"{prefix}other_protocol")
        own = pc.invert(pc.match_substring_regex(batch["group"], r"^G\d+$"))
        return batch, self._numbers(pc.if_else(own, batch["event"], batch["group"]), self.checklists)

    def observations(self, batch: pa.RecordBatch) -> None:
        """Add the presences of one block."""
        batch, rows = self.events(batch)
        names = pc.binary_join_element_wise(batch["category"], batch["scientific"], batch["common"], b"\t")
        encoded = names.dictionary_encode()
        known = np.array([self._taxon(name) for name in encoded.dictionary.to_pylist()], dtype=np.int32)
        columns = known[encoded.indices.to_numpy(zero_copy_only=False)] if len(known) else np.empty(0, np.int32)
        for reason, number in enumerate(np.bincount(-1 - columns[columns < 0], minlength=len(self.reasons))):
            self.counted[self.reasons[reason]] += int(number)
        uncounted = _as_numpy(pc.equal(batch["count"], b"X"))
        counted = _as_numpy(pc.match_substring_regex(batch["count"], r"^0*[1-9]\d*$"))
        resolved = columns >= 0
        self.counted["count_X"] += int((uncounted & resolved).sum())
        self.counted["count_unreadable"] += int((~uncounted & ~counted & resolved).sum())
        kept = resolved & (uncounted | counted)
        self.rows.append(rows[kept])
        self.columns.append(columns[kept])

    def _keep(self, batch: pa.RecordBatch, mask: pa.Array, reason: str) -> pa.RecordBatch:
        kept = batch.filter(mask)
        self.counted[reason] += len(batch) - len(kept)
        return kept

    @staticmethod
    def _numbers(keys: pa.Array, known: dict[bytes, int]) -> np.ndarray:
        """Number of each key, new keys in the order of their first appearance."""
        encoded = keys.dictionary_encode()
        numbers = [known.setdefault(key, len(known)) for key in encoded.dictionary.to_pylist()]
        return np.array(numbers, dtype=np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]

    def _taxon(self, name: bytes) -> int:
        """Number of the species of a taxon, or minus (1 + the number of the reason why it has none)."""
        if name not in self.taxa:
            category, scientific, common = decoded(name, "names of taxa", self.where).split("\t")
            species = species_name(scientific) if category in SPECIES_LEVEL else None
            if species is None:
                reason = f"category_{category}" if category not in SPECIES_LEVEL else f"unresolved_{category}"
                if reason not in self.reasons:
                    self.reasons.append(reason)
                self.taxa[name] = -1 - self.reasons.index(reason)
            else:
                number = self.taxa[name] = self.species.setdefault(species, len(self.species))
                if number == len(self.common):
                    self.common.append((False, _without_brackets(common)))
                if category == "species" or is_own_taxon(scientific):
                    self.common[number] = (True, common)
        return self.taxa[name]

    def result(self) -> Checklists:
        """What was kept, each presence once."""
        rows, columns = (np.concatenate([np.empty(0, np.int32), *part]) for part in (self.rows, self.columns))
        self.rows, self.columns = [], []
        keys = rows.astype(np.int64) * max(len(self.species), 1) + columns
        unique = np.unique(keys)
        self.counted["merged"] = len(keys) - len(unique)  # copies of shared checklists, and taxa of one species
        rows, columns = np.divmod(unique, max(len(self.species), 1))
        seen, columns = np.unique(columns, return_inverse=True)  # a species may be on dropped rows alone
        species = list(self.species)
        first = ("rows", "rescued", "malformed", "incomplete", "other_protocol")
        rest = [name for name in self.counted if name not in first]
        counts = {name: self.counted[name] for name in (*first, *rest)}
        ids = [key.decode("ascii") for key in self.checklists]
        names, common = [species[i] for i in seen], [self.common[i][1] for i in seen]
        return Checklists(ids, names, common, rows.astype(np.int32), columns.astype(np.int32), counts)


def species_name(scientific: str) -> str | None:
    """Genus and species of a taxon's scientific name; None where it is not told to the species.

    >>> species_name("Anas platyrhynchos (Domestic type)"), species_name("Motacilla flava lutea/flavissima")
    ('Anas platyrhynchos', 'Motacilla flava')
    >>> species_name("Falco sp."), species_name("Aythya marila/affinis")
    (None, None)
    >>> species_name("Scytalopus [undescribed Lambayeque form]"), species_name("Tachyeres pteneres [undescribed form]")
    ('Scytalopus [undescribed Lambayeque form]', 'Tachyeres pteneres')
    """
    if is_own_taxon(scientific):
        return " ".join(scientific.split())
    words = _without_brackets(scientific).split()[:2]
    if len(words) < 2 or words[1] == "sp." or "/" in words[1] or words[1] == "x":
        return None
    return " ".join(words)


def is_own_taxon(scientific: str) -> bool:
    """Whether a form's name is that of no known species: brackets right behind the genus, or unrecognised as a whole.

    >>> [is_own_taxon(name) for name in ("Grallaria [undescribed form]", "Oceanites barrosi [unrecognized species]")]
    [True, True]
    >>> is_own_taxon("Canachites canadensis [canadensis Group]")
    False
    """
    return _OWN.search(scientific) is not None


def _without_brackets(name: str) -> str:
    """A taxon's name without what it says in brackets at the end."""
    return re.sub(r"\s*\([^()]*\)\s*$", "", name).strip()


def _all_of(*masks: pa.Array) -> pa.Array:
    result = masks[0]
    for mask in masks[1:]:
        result = pc.and_(result, mask)
    return result


def _as_numpy(mask: pa.Array) -> np.ndarray:
    return mask.to_numpy(zero_copy_only=False).astype(bool)
