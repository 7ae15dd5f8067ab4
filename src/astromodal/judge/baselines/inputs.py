"""The same inputs for a baseline as for the model: given quantities of an object as one row of numbers.

Scalars are their values (NaN where missing; over a fixed unit, where float32 needs one) and whether they were looked
for and not detected. Spectra and cutouts are their tokens' codebook entries, averaged over stretches of the spectrum or
squares of the cutout. Behind them stand colours (:mod:`.colours`), for the baselines that see them. Read from the token
files field by field; of the training rows a stated number is kept, chosen by keyed draws, so that memory does not grow
with the survey.

Shapes: n rows, s given scalars, f features, T tokens of a part, D dimensions of an entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...config.reading.explain import nearest
from ...data.splits import TRAIN
from ...errors import ConfigError
from ...machine.random import keyed_uniform
from ...vocabulary.codebook import Codebook
from ...vocabulary.vocab import stages_of
from ..predicted import rows_of
from .colours import colour_features, colour_pairs, colour_unit

if TYPE_CHECKING:
    from ...config.schema import ScalarConfig
    from ...tokenizers import TokenizerSet
    from ...tokens.store import FieldTokens, TokenStore

IMAGE = "image"
STRETCHES, SQUARES = 16, 4  # averages of a spectrum; of a cutout on each side
_SAMPLE_KEY = 0x5A3
_FAR = 1e30  # of a dimensionless value: float32 ends soon after
_CLOSE, _USUAL = 1e-4, 1e15  # spread over distance from 0, and size, at which float32 and its squares get short


@dataclass(frozen=True)
class Inputs:
    """Names of what is given, in the order of the features."""

    scalars: tuple[str, ...]
    parts: tuple[str, ...]  # spectrum groups and the image, of those with a codebook
    unused: tuple[str, ...]  # given, but no codebook is known: the baselines do without
    units: Mapping[str, tuple[float, float]] = field(default_factory=dict, compare=False)  # see :func:`_unit`

    colours: tuple[tuple[str, str], ...] = ()  # pairs of scalars; their differences stand behind everything else
    configs: Mapping[str, ScalarConfig] = field(default_factory=dict, compare=False)  # of the scalars

    def without(self, column: str, configs: Mapping[str, ScalarConfig] | None = None) -> Inputs:
        """The same without the asked column; with ``configs`` (unit and space of columns), with colours of the rest."""
        scalars = tuple(name for name in self.scalars if name != column)
        configs = dict(configs or {})
        return replace(self, scalars=scalars, colours=tuple(colour_pairs(scalars, configs)), configs=configs)


class JudgedTokens(NamedTuple):
    """Token files for a judgement: what baselines learn from, and what they answer for."""

    store: TokenStore | None  # of the model's training run; None: see ``why``
    asked: TokenStore | None  # with the judged objects
    codebooks: Mapping[str, Codebook]
    why: str = ""  # there are no baselines


def codebooks(tokenizers: TokenizerSet) -> dict[str, Codebook]:
    """Codebook of every spectrum group and of ``image``, as inputs of baselines need them."""
    found = tokenizers.group_codebooks()
    return found if tokenizers.image is None else found | {IMAGE: tokenizers.image_codebook()}


class Rows(NamedTuple):
    """Features of some objects."""

    features: np.ndarray  # (n, f) float32, in units that it can hold, NaN where missing
    target: np.ndarray  # (n,) float64, the asked column


def choose_inputs(
    store: TokenStore, given: Sequence[str] | None, codebooks: Mapping[str, Codebook] | None = None
) -> Inputs:
    """What of ``given`` a baseline can use.

    Args:
        given: scalar columns, spectrum groups, ``image``, or whole modalities; ``None``: everything.

    Raises:
        ConfigError: a name that the token files do not have.
    """
    first = store.open(store.fields()[0])
    groups = [*first.spectra]
    parts = [*groups, *([IMAGE] if first.image else [])]
    stages = stages_of([IMAGE, *groups] if first.image else groups)
    of_image = stages.get(IMAGE, [])
    members = {"scalar": [*first.columns], "spectrum": [g for g in groups if g not in of_image]} | stages
    wanted: dict[str, None] = {}
    for name in [*first.columns, *parts] if given is None else given:
        if name not in members and name not in first.columns and name not in parts:
            raise ConfigError(
                "a modality, group or column of the token files",
                got=name,
                where="given",
                repair=nearest(name, [*members, *first.columns, *parts]),
            )
        wanted |= dict.fromkeys(members.get(name, [name]))
    known, scalars = set(codebooks or {}), tuple(name for name in wanted if name in first.columns)
    return Inputs(
        scalars,
        tuple(name for name in wanted if name in parts and name in known),
        tuple(name for name in wanted if name in parts and name not in known),
        _units(store, scalars),
    )


def _units(store: TokenStore, scalars: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Origin and unit of each column, from the first field that has values of it."""
    units: dict[str, tuple[float, float]] = {}
    for tokens in store if scalars else ():
        for name in scalars:
            values = tokens.scalar["values"][:, tokens.columns.index(name)]
            values = values[np.isfinite(values)].astype(np.float64)
            if name not in units and len(values):
                units[name] = _unit(values)
        if len(units) == len(scalars):
            break
    return units


def _unit(values: np.ndarray) -> tuple[float, float]:
    """What to subtract from values (n,), and what to divide by, so that float32 tells them apart whatever their unit.

    Values that it tells apart anyway keep their unit, so that magnitudes can be subtracted from each other. Nothing is
    subtracted unless values lie close together far from 0 (Julian dates): small ones keep their digits.

    >>> _unit(np.array([17.0, 18.0])), _unit(np.array([1e45, 2e45, 3e45])), _unit(2459000.0 + np.arange(3.0))
    ((0.0, 1.0), (0.0, 3e+45), (2459001.0, 1.0))
    """
    middle, largest = float(np.median(values)), float(np.abs(values).max())
    spread = float(np.median(np.abs(values - middle)))
    if 0 < spread < _CLOSE * abs(middle):
        return middle, spread
    return 0.0, 1.0 if 1 / _USUAL < largest < _USUAL or not largest else largest


def features(
    tokens: FieldTokens, rows: np.ndarray, inputs: Inputs, codebooks: Mapping[str, Codebook] | None = None
) -> np.ndarray:
    """Features ``(n, f)`` of rows ``(n,)`` of a field, NaN where an object lacks a part."""
    blocks = [np.zeros((len(rows), 0), np.float32)]
    if inputs.scalars:
        at = [tokens.columns.index(name) for name in inputs.scalars]
        origin, unit = np.array([inputs.units.get(name, (0.0, 1.0)) for name in inputs.scalars]).T
        values = (tokens.scalar["values"][rows][:, at] - origin) / unit
        blocks += [np.clip(values, -_FAR, _FAR).astype(np.float32)]
        blocks += [tokens.scalar["nondetected"][rows][:, at].astype(np.float32)]
    for name in inputs.parts:
        codebook = (codebooks or {})[name]
        entries = ((codebook.entries - codebook.mean) / codebook.scale).astype(np.float32)
        blocks.append(_pooled(tokens, name, rows, entries))
    if inputs.colours:
        found = colour_features(tokens.scalar["values"][rows][:, at], inputs.scalars, inputs.colours, inputs.configs)
        unit = [colour_unit(inputs.configs[one], inputs.units.get(one, (0.0, 1.0))[1]) for one, _ in inputs.colours]
        blocks.append(np.clip(found / np.array(unit), -_FAR, _FAR).astype(np.float32))
    return np.concatenate(blocks, axis=1)


def _pooled(tokens: FieldTokens, name: str, rows: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Entries of a part's tokens, averaged over stretches of a spectrum or squares of a cutout."""
    if name == IMAGE:
        have = np.flatnonzero(tokens.image["present"][rows])
        codes = tokens.image["tokens"][rows[have]]
    else:
        part = tokens.spectra[name]
        have = np.flatnonzero(part.present[rows])
        codes = part.tokens[part.offsets[rows[have]][:, None] + np.arange(part.length)]  # (m, T)
    n = codes.shape[1]
    grid = name in stages_of([IMAGE, name])[IMAGE] and n == tokens.image["tokens"].shape[1]
    cuts = _squares(n) if grid else np.array_split(np.arange(n), min(STRETCHES, n))
    out = np.full((len(rows), len(cuts) * entries.shape[1]), np.nan, np.float32)
    out[have] = np.concatenate([entries[codes[:, cut]].mean(1) for cut in cuts], axis=1)
    return out


def _squares(n_tokens: int) -> list[np.ndarray]:
    """Places of the tokens of each square of a cutout; a row of codes is a row of the cutout."""
    side = int(np.sqrt(n_tokens))
    place = np.arange(n_tokens)
    step = max(-(-side // SQUARES), 1)
    square = place // side // step * SQUARES + place % side // step
    return [np.flatnonzero(square == k) for k in np.unique(square)]


def has_given(tokens: FieldTokens, inputs: Inputs) -> np.ndarray:
    """Objects of a field that have something of what is given ``(n,)`` bool; all, if nothing is given to anyone."""
    has = np.full(len(tokens), not (inputs.scalars or inputs.parts or inputs.unused))
    if inputs.scalars:
        at = [tokens.columns.index(name) for name in inputs.scalars]
        has |= (tokens.scalar["present"][:, at] | tokens.scalar["nondetected"][:, at]).any(1)
    for name in (*inputs.parts, *inputs.unused):
        has |= tokens.image["present"] if name == IMAGE else tokens.spectra[name].present
    return has


def training_rows(
    store: TokenStore,
    column: str,
    inputs: Inputs,
    codebooks: Mapping[str, Codebook] | None = None,
    *,
    max_rows: int = 50_000,
    seed: int = 0,
) -> tuple[Rows, int]:
    """At most ``max_rows`` training objects that have ``column`` and something given; of how many they were drawn.

    Objects without anything given are none that the question is about: where only bright ones have spectra, a
    marginal of all would be easy to beat from spectra. The choice is a function of the seed and of an object's place
    in the store.
    """
    best_keys, best_places = np.zeros(0), np.zeros((0, 2), np.int64)
    n_seen = n_before = 0
    for number, tokens in enumerate(store):
        known = np.isfinite(tokens.scalar["values"][:, tokens.columns.index(column)])
        rows = np.flatnonzero((tokens.split == TRAIN) & known & has_given(tokens, inputs))
        keys = np.concatenate([best_keys, keyed_uniform(seed, _SAMPLE_KEY, n_before + rows, 0)])
        places = np.concatenate([best_places, np.stack([np.full(len(rows), number), rows], axis=1)])
        chosen = np.argpartition(keys, max_rows)[:max_rows] if len(keys) > max_rows else slice(None)
        best_keys, best_places = keys[chosen], places[chosen]
        n_seen, n_before = n_seen + len(rows), n_before + len(tokens)
    found = [
        _rows(store.open(field), np.sort(best_places[best_places[:, 0] == k, 1]), column, inputs, codebooks)
        for k, field in enumerate(store.fields())
    ]
    return Rows(*(np.concatenate(parts) for parts in zip(*found, strict=True))), n_seen


def _rows(
    tokens: FieldTokens, rows: np.ndarray, column: str, inputs: Inputs, codebooks: Mapping[str, Codebook] | None
) -> Rows:
    target = tokens.scalar["values"][rows, tokens.columns.index(column)].astype(np.float64)
    return Rows(features(tokens, rows, inputs, codebooks), target)


def places_in_store(
    store: TokenStore, fields: np.ndarray, ids: np.ndarray
) -> Iterator[tuple[FieldTokens, np.ndarray, np.ndarray]]:
    """Where catalogue rows stand in the token files: field after field, rows of the catalogue and of the field.

    Args:
        fields, ids: of the catalogue's rows, ``(n,)``; rows without a field are looked for in every field.
    """
    for name in store.fields():
        mine = np.flatnonzero((fields == name) | (fields == ""))
        if len(mine):
            tokens = store.open(name)
            place = rows_of(np.asarray(tokens.ids), ids[mine])
            yield tokens, mine[place >= 0], place[place >= 0]
