"""Made-up checklists in the format of eBird's Basic Dataset, its quirks included, with a known community behind them.

A checklist lies in a mixture of habitats and takes some effort; the probability that a species is on it is

    sigmoid(rarity_s + sum_k mixture_k * affinity_sk + slope_s * log(minutes / 60)),

so that ``n_habitats - 1`` numbers of the mixture and one of effort explain all there is to explain. Everything is a
function of (seed, number of the block), files of any size are written block by block.

What real files have is here, too: quote characters in comments, now and then a tab; subspecies groups, intergrades and
domestic types, beside their species or instead of it; spuhs, slashes and hybrids; copies of shared checklists of which
one has more species than the other; counts ``X``; incomplete checklists, other protocols, checklists without species
(in the file of sampling events alone), cut lines.

Shapes: N checklists, S species, K habitats.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import ConfigError
from ...files.io import atomic_path

BLOCK = 256  # checklists drawn at once
MAX_COPIES = 4  # of a shared checklist: event ids of one outing are this far apart
FIRST_EVENT, FIRST_GROUP = 10_000_000, 400_000
P_INCOMPLETE, P_OTHER, P_SHARED, P_EMPTY, P_HIGHER, P_X, P_TAB, P_CUT = 0.08, 0.1, 0.12, 0.01, 0.15, 0.07, 0.01, 0.002
OTHER_PROTOCOLS = (("Incidental", "P20"), ("Historical", "P62"), ("Area", "P23"), ("eBird Pelagic Protocol", "P60"))
COMMENTS = (
    "",
    "",
    'two at 6" of the feeder',
    '"Heard only',
    "Dave's yard, cloudy 54F",
    'said "rare"',
    "brève étape",
    "W&#61;0-1; T 38-40F",
    "'''",
    '""',
)

_OBSERVATION = (
    "GLOBAL UNIQUE IDENTIFIER|LAST EDITED DATE|TAXONOMIC ORDER|CATEGORY|TAXON CONCEPT ID|COMMON NAME|SCIENTIFIC NAME|"
    "SUBSPECIES COMMON NAME|SUBSPECIES SCIENTIFIC NAME|EXOTIC CODE|OBSERVATION COUNT|BREEDING CODE|BREEDING CATEGORY|"
    "BEHAVIOR CODE|AGE/SEX|"
)
_PLACE = (
    "COUNTRY|COUNTRY CODE|STATE|STATE CODE|COUNTY|COUNTY CODE|IBA CODE|BCR CODE|USFWS CODE|ATLAS BLOCK|LOCALITY|"
    "LOCALITY ID|LOCALITY TYPE|LATITUDE|LONGITUDE|OBSERVATION DATE|TIME OBSERVATIONS STARTED|OBSERVER ID|"
)
_EVENT = {
    "new": "OBSERVER ORCID ID|SAMPLING EVENT IDENTIFIER|OBSERVATION TYPE|PROTOCOL NAME|PROTOCOL CODE|PROJECT NAMES|"
    "PROJECT IDENTIFIERS|",
    "old": "SAMPLING EVENT IDENTIFIER|PROTOCOL TYPE|PROTOCOL CODE|PROJECT CODE|",
}
_EFFORT = "DURATION MINUTES|EFFORT DISTANCE KM|EFFORT AREA HA|NUMBER OBSERVERS|ALL SPECIES REPORTED|GROUP IDENTIFIER|"
_REVIEW = "HAS MEDIA|APPROVED|REVIEWED|REASON|"
_COMMENTS = {"new": "CHECKLIST COMMENTS|", "old": "TRIP COMMENTS|"}


@dataclass
class _Block:
    """Checklists of one block, before they are written."""

    first: int  # number of the first one
    mixture: np.ndarray  # (n, K)
    effort: np.ndarray  # (n,) log(minutes / 60)
    present: np.ndarray  # (n, S) bool


class ChecklistGenerator:
    """Writes made-up checklists and knows the truth about them.

    Args:
        layout: ``new`` (since 2025) or ``old``: which columns there are, and what the protocol's is called.

    Raises:
        ConfigError: fewer than one checklist, two species or one habitat, or another layout.
    """

    def __init__(
        self, n_checklists: int, n_species: int = 120, n_habitats: int = 6, seed: int = 0, layout: str = "new"
    ) -> None:
        for name, value, least in (
            ("n_checklists", n_checklists, 1),
            ("n_species", n_species, 2),
            ("n_habitats", n_habitats, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} of {least} or more", got=value, where="made-up checklists")
        if layout not in _EVENT:
            raise ConfigError("a layout new or old", got=layout, where="made-up checklists")
        self.n_checklists, self.seed, self.layout = n_checklists, seed, layout
        rng = np.random.default_rng([seed, 0x5BEC])
        self.scientific, self.common = _names(n_species, rng)
        self.rarity = rng.normal(-3.2, 1.2, n_species)
        at_home = rng.random((n_species, n_habitats)) < 0.3
        self.affinity = np.where(at_home, rng.uniform(1.5, 4.5, (n_species, n_habitats)), -1.0)
        self.slope = rng.uniform(0.2, 0.9, n_species)
        self.subspecies = rng.random(n_species) < 0.12
        self.domestic = {0: False, 1: True}  # species -> whether its domestic type has a scientific name of its own

    # ------------------------------------------------------------------------------------ the truth

    def _block(self, number: int) -> tuple[_Block, np.random.Generator]:
        rng = np.random.default_rng([self.seed, number, 0xB10C])
        first = number * BLOCK
        n = min(BLOCK, self.n_checklists - first)
        mixture = rng.dirichlet(np.full(self.affinity.shape[1], 0.3), n)
        effort = rng.normal(0.0, 0.8, n)
        present = rng.random((n, len(self.rarity))) < self._probability(mixture, effort)
        present[rng.random(n) < P_EMPTY] = False
        return _Block(first, mixture, effort, present), rng

    def _probability(self, mixture: np.ndarray, effort: np.ndarray) -> np.ndarray:
        logits = self.rarity + mixture @ self.affinity.T + effort[:, None] * self.slope
        return 1.0 / (1.0 + np.exp(-logits))

    def probabilities(self, ids: Sequence[str], species: Sequence[str]) -> np.ndarray:
        """True probability ``(n, s)`` that each of ``species`` is on the checklists with these ids, given habitat and
        effort (and that the checklist is not one of the 1 % that are empty for no reason)."""
        numbers = np.array(
            [int(i[1:]) - FIRST_GROUP if i[0] == "G" else (int(i[1:]) - FIRST_EVENT) // MAX_COPIES for i in ids]
        )
        place = {name: i for i, name in enumerate(self.scientific)}
        columns = [place[name] for name in species]
        found = np.empty((len(ids), len(columns)))
        for block_number in np.unique(numbers // BLOCK):
            block, _ = self._block(int(block_number))
            rows = np.flatnonzero(numbers // BLOCK == block_number)
            inside = numbers[rows] - block.first
            found[rows] = self._probability(block.mixture[inside], block.effort[inside])[:, columns]
        return found

    def best_nats(self, present: np.ndarray, species: Sequence[str], n_draws: int = 20_000, seed: int = 0) -> float:
        """Mean of minus the log-likelihood of checklists ``(n, s)`` under the true model, which no other can beat.

        Habitat and effort are unknown to it, too: they are integrated over by draws from their distribution, so that
        the figure is an upper limit that falls with ``n_draws`` (20,000 are within 0.01 nats for 8 habitats).
        """
        place = {name: i for i, name in enumerate(self.scientific)}
        columns = [place[name] for name in species]
        rng = np.random.default_rng([seed, 0xBE57])
        present = np.asarray(present, dtype=np.float32)
        total = np.full(len(present), -np.inf)
        for n in [1000] * (n_draws // 1000) + [n_draws % 1000] * (n_draws % 1000 > 0):
            mixture = rng.dirichlet(np.full(self.affinity.shape[1], 0.3), n)
            p = self._probability(mixture, rng.normal(0.0, 0.8, n))[:, columns]
            p = np.clip(p, 1e-7, 1 - 1e-7).astype(np.float32)
            log_p, log_q = np.log(p), np.log1p(-p)
            each = (present @ (log_p - log_q).T + log_q.sum(1)).astype(np.float64)  # (n, draws)
            top = np.maximum(each.max(1), total)
            total = top + np.log(np.exp(each - top[:, None]).sum(1) + np.exp(total - top))
        return float(np.log(n_draws) - total.mean())

    # ------------------------------------------------------------------------------------ the files

    def write(self, path: str | Path, sampling_path: str | Path | None = None) -> None:
        """Write the observations and, if asked, the sampling events; names in ``.gz`` compress.

        Raises:
            ArtifactError: no room on the disk, or a folder that cannot be written to.
        """
        _write(path, _header(_OBSERVATION, self.layout, _REVIEW, "SPECIES COMMENTS|"), self._blocks(_observation_lines))
        if sampling_path is not None:
            _write(sampling_path, _header("LAST EDITED DATE|", self.layout, "", ""), self._blocks(_event_lines))

    def _blocks(self, lines: Any) -> Iterator[list[str]]:
        for number in range(-(-self.n_checklists // BLOCK)):
            block, rng = self._block(number)
            copies = [copy for i in range(len(block.effort)) for copy in _copies(self, block, i, rng)]
            yield lines(self, copies, rng)


@dataclass
class _Copy:
    """One observer's copy of a checklist."""

    event: str
    group: str
    complete: int
    protocol: tuple[str, str]  # name, code
    minutes: int
    species: np.ndarray  # numbers of the species on it

    def shared_columns(self, layout: str) -> tuple[str, str]:
        """The columns from the country on: before the review's, and the comment's."""
        number = int(self.event[1:])
        spot = number % 97
        place = f'Elsewhere\tXX\tNorth\tXX-N\tBrook\tXX-N-{number % 9:03d}\t\t36\t\t\tPond "{spot}", é\tL{spot}'
        day = f"20{number % 20 + 5:02d}-0{number % 9 + 1}-1{number % 9}"
        when = f"H\t26.4{spot:02d}\t-99.0{spot:02d}\t{day}"
        start, observer, (name, code) = "" if number % 31 == 0 else "09:30:00", f"obsr{number % 997}", self.protocol
        event = (
            f"\t{self.event}\t{name}\t{name}\t{code}\teBird\t"
            if layout == "new"
            else f"{self.event}\t{name}\t{code}\tEBIRD"
        )
        effort = f"{self.minutes}\t{'1.609' if name == 'Traveling' else ''}\t\t{number % 4 or ''}"
        effort += f"\t{self.complete}\t{self.group}"
        return f"{place}\t{when}\t{start}\t{observer}\t{event}\t{effort}", COMMENTS[number % len(COMMENTS)]


def _copies(made: ChecklistGenerator, block: _Block, i: int, rng: np.random.Generator) -> list[_Copy]:
    """The copies of checklist ``i``: one, or several of a shared one, of which the later ones lack a species."""
    number, draws = block.first + i, rng.random(4)
    n_copies = 1 if draws[0] >= P_SHARED else int(rng.integers(2, MAX_COPIES))
    group = f"G{FIRST_GROUP + number}" if n_copies > 1 else ""
    standard = ("Traveling", "P22") if draws[1] < 0.6 else ("Stationary", "P21")
    protocol = OTHER_PROTOCOLS[int(draws[1] * 1e4) % len(OTHER_PROTOCOLS)] if draws[2] < P_OTHER else standard
    complete, minutes = int(draws[3] >= P_INCOMPLETE), max(1, round(60.0 * float(np.exp(block.effort[i]))))
    found = []
    for copy in range(n_copies):
        present = block.present[i].copy()
        if copy and present.any():
            present[rng.choice(np.flatnonzero(present))] = False
        if not complete and present.any():
            present &= rng.random(len(present)) < 0.5
        event = f"S{FIRST_EVENT + number * MAX_COPIES + copy}"
        found.append(_Copy(event, group, complete, protocol, minutes, np.flatnonzero(present)))
    return found


def _event_lines(made: ChecklistGenerator, copies: list[_Copy], rng: np.random.Generator) -> list[str]:
    """Rows of the file of sampling events."""
    parts = [copy.shared_columns(made.layout) for copy in copies]
    return [f"2024-05-01 10:00:00\t{shared}\t{comment}\t\n" for shared, comment in parts]


def _observation_lines(made: ChecklistGenerator, copies: list[_Copy], rng: np.random.Generator) -> list[str]:
    """Rows of the file of observations, in no order."""
    lines = []
    for copy in copies:
        shared, comment = copy.shared_columns(made.layout)
        for taxon in _taxa(made, copy, rng):
            draws = rng.random(3)
            count = "X" if draws[0] < P_X else str(1 + int(rng.exponential(3.0)))
            remark = f"{comment}\tand more" if draws[1] < P_TAB else comment
            front = f"URN:X:EBIRD:OBS{rng.integers(1 << 40)}\t2024-05-01 10:00:00\t{rng.integers(1 << 15)}"
            concept, exotic = ("avibase-0\t", "\t") if made.layout == "new" else ("", "")
            category, names = taxon.split("\t", 1)
            behaviour = "\t\t\t\t" if made.layout == "new" else "\t\t\t"
            lines.append(
                f"{front}\t{category}\t{concept}{names}\t{exotic}{count}\t{behaviour}{shared}\t0\t1\t0\t\t"
                f"{comment}\t{remark}\t\n"
            )
            if draws[2] < P_CUT:
                lines.append(lines[-1][: len(lines[-1]) // 3] + "\n")
    rng.shuffle(lines)
    return lines


def _taxa(made: ChecklistGenerator, copy: _Copy, rng: np.random.Generator) -> Iterator[str]:
    """Category, common, scientific and the two subspecies names of every row of a checklist."""
    for s in copy.species:
        common, scientific, draw = made.common[s], made.scientific[s], rng.random()
        plain = f"species\t{common}\t{scientific}\t\t"
        if s in made.domestic and draw < 0.5:
            own = made.domestic[s]
            label = f"{common} (Domestic type)\t{scientific} (Domestic type)"
            yield f"domestic\t{label}\t\t" if own else f"domestic\t{common}\t{scientific}\t{label}"
        elif made.subspecies[s] and draw < 0.75:
            category = "issf" if draw < 0.6 else "intergrade" if draw < 0.7 else "form"
            yield f"{category}\t{common}\t{scientific}\t{common} (Northern)\t{scientific} borealis"
            if draw < 0.2:
                yield f"issf\t{common}\t{scientific}\t{common} (Southern)\t{scientific} australis"
            if 0.15 < draw < 0.4:
                yield plain
        else:
            yield plain
    if rng.random() < P_HIGHER:
        a, b = rng.integers(len(made.common), size=2)
        genus, one, two = made.scientific[a].split()[0], made.scientific[a], made.scientific[b].split()[1]
        higher = (
            f"spuh\t{made.common[a]} sp.\t{genus} sp.",
            f"slash\t{made.common[a]}/{made.common[b]}\t{one}/{two}",
            f"hybrid\t{made.common[a]} x {made.common[b]} (hybrid)\t{one} x {two}",
        )
        yield f"{higher[rng.integers(3)]}\t\t"


def _names(n_species: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Scientific and common names, all different."""
    syllables = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "xo", "zu")
    kinds = ("Jay", "Wren", "Tern", "Gull", "Finch", "Heron", "Owl", "Crake")
    scientific: dict[str, str] = {}
    while len(scientific) < n_species:
        words = ["".join(rng.choice(syllables, size=n)) for n in (3, 4)]
        name = f"{words[0].capitalize()} {words[1]}"
        scientific.setdefault(name, f"{words[1].capitalize()}'s {kinds[len(scientific) % len(kinds)]}")
    return list(scientific), list(scientific.values())


def _header(front: str, layout: str, review: str, remarks: str) -> str:
    """Names of the columns, and the empty one after the last tab."""
    if layout == "old":
        front = front.replace("TAXON CONCEPT ID|", "").replace("EXOTIC CODE|", "")
        front = front.replace(
            "BREEDING CODE|BREEDING CATEGORY|BEHAVIOR CODE|", "BREEDING BIRD ATLAS CODE|BREEDING BIRD ATLAS CATEGORY|"
        )
    names = front + _PLACE + _EVENT[layout] + _EFFORT + review + _COMMENTS[layout] + remarks
    return names.replace("|", "\t") + "\n"


def _write(path: str | Path, header: str, blocks: Iterator[list[str]]) -> None:
    with atomic_path(path) as temporary, _opened(temporary, Path(path).suffix == ".gz") as file:
        file.write(header)
        for lines in blocks:
            file.writelines(lines)


def _opened(path: Path, compressed: bool) -> TextIO:
    if compressed:
        return gzip.open(path, "wt", compresslevel=1, encoding="utf-8", newline="")
    return open(path, "w", encoding="utf-8", newline="")
