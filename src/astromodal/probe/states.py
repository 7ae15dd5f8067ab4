"""Hidden states of a frozen model for probes of a label that the model is not shown.

Kept in memory are the *tokens* of a stated number of objects, chosen by keyed draws; their hidden states are computed
by a forward pass whenever a batch is asked for, so that memory does not grow with the survey, nor with the number of
tokens of an object times the width of the model.

Labels are never shown: they are taken out of what is given, whatever else is given, so that one pass through the model
serves several labels, none of which can be read off another. A model trained in one order with
``sequence.missing=token`` sees the MISS token in its place, for every object alike, as in training.

Shapes: n chosen objects, m of a batch, P longest prefix, D width, S parts and BOS.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..ask.engine import Engine
from ..ask.prediction import observed
from ..ask.prefixes import CELLS, Slots
from ..ask.questions import Plan, plan_questions
from ..config.reading.explain import nearest
from ..config.schema import ScalarConfig
from ..data.scalars import transform
from ..data.splits import SPLIT_NAMES, TEST, TRAIN, VAL
from ..errors import ConfigError, DataError
from ..files.ids import normalize_ids
from ..machine.random import keyed_uniform
from ..sequences.layout import SequenceLayout
from ..sequences.slots import check_field
from ..tokens.store import FieldTokens, TokenStore
from ..vocabulary.vocab import TYPE_SPECIAL

SLOT_CELLS = 1 << 22  # tokens of a window of a field
_CHOICE_KEY, _HALF_KEY = 0x9B0BE, 0x9B0BF


class States(Protocol):
    """Per-token hidden states of numbered objects."""

    width: int

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """States ``(m, P, D)`` float32 and lengths ``(m,)`` of objects ``rows (m,)``; what is behind is padding."""
        ...

    def lengths(self) -> np.ndarray:
        """Tokens of each object ``(n,)``."""
        ...


def hidden_plan(
    layout: SequenceLayout,
    sequence: Mapping[str, Any],
    labels: Sequence[str],
    given: Sequence[str] | None,
    log: logging.Logger | None = None,
) -> Plan:
    """What is shown of an object: ``given`` (None: everything) without any of the labels.

    Raises:
        ConfigError: the model has no such column, or a label is named twice or in ``given``.
    """
    columns = [segment.name for segment in layout.segments if segment.modality == "scalar"]
    for label in labels:
        if label not in columns:
            raise ConfigError(
                "a scalar column that the model knows",
                got=label,
                where="label",
                repair=nearest(label, columns) or f"one of {', '.join(columns)}",
            )
        if given is not None and label in given:
            raise ConfigError("a label that is not given", got=f"{label} in both", where="given", repair="leave it out")
    if len(set(labels)) < len(labels):
        raise ConfigError("every label once", got=", ".join(labels), where="label")
    plan = plan_questions(
        layout,
        order=sequence["order"],
        missing=sequence["missing"],
        next_types=sequence["next_types"],
        given=given,
        predict=[],
        log=log,
    )
    shown = plan.given - set(labels)
    if not shown:
        raise ConfigError(f"something else than {' and '.join(labels)} to be given", got="nothing", where="given")
    return replace(plan, given=shown)


@dataclass(frozen=True)
class Labelled:
    """Objects that have the label: where they stand, and what it is."""

    slots: Slots
    ids: np.ndarray  # (n,)
    places: np.ndarray  # (n, 2) number of the field and row in it
    split: np.ndarray  # (n,) uint8
    values: np.ndarray  # (n,) float64, physical
    counts: dict[str, dict[str, int]]  # split -> available, used, without_input

    def rows(self, split: int) -> np.ndarray:
        return np.flatnonzero(self.split == split)


def labelled_objects(
    store: TokenStore | Sequence[FieldTokens],
    layout: SequenceLayout,
    plan: Plan,
    label: str,
    config: ScalarConfig,
    limits: Mapping[int, int],
    seed: int = 0,
) -> Labelled:
    """At most ``limits[split]`` objects of each split that have the label, and of how many they were drawn.

    The choice is a function of the seed and of an object's place in the store. Objects that have nothing of what is
    given are left out and counted. Without a test split, half of the validation objects are judged instead.

    Raises:
        DataError: a split is left without objects.
    """
    places, available = _choose(store, label, config, limits, seed)
    slots, ids, found_at, split, values = [], [], [], [], []
    for number, field in enumerate(store):
        check_field(field, layout)
        mine = np.sort(places[places[:, 0] == number, 1])
        width = 1 + sum(segment.length + 1 for segment in layout.segments)
        step = max(SLOT_CELLS // width, 1)
        for start in range(0, len(field) if len(mine) else 0, step):
            rows = mine[(mine >= start) & (mine < start + step)]
            if len(rows):
                window = Slots.read(field, start, min(start + step, len(field)), layout, plan)
                chosen = window.of(rows - start)
                slots.append(replace(chosen, tokens=chosen.tokens.astype(np.int32)))
                ids.append(normalize_ids(np.asarray(field.ids[rows])))
                found_at.append(np.stack([np.full(len(rows), number), rows], 1))
                split.append(np.asarray(field.split[rows]))
                values.append(observed(field, label, rows)[0].astype(np.float64))
    if not slots:
        raise DataError(f"objects that have {label}", got="none", where="token files")
    tokens, sigma, present = (
        np.concatenate([getattr(s, name) for s in slots]) for name in ("tokens", "sigma", "present")
    )
    whole = replace(slots[0], tokens=tokens, sigma=sigma, present=present)
    shown = [whole.part_number(name) for name in plan.given]
    usable = np.asarray(whole.present[:, shown].any(1))
    of_split = np.concatenate(split)
    counts = {
        SPLIT_NAMES[k]: {
            "available": available[k],
            "used": int(usable[of_split == k].sum()),
            "without_input": int((~usable[of_split == k]).sum()),
        }
        for k in (TRAIN, VAL, TEST)
    }
    whole = whole.of(usable)
    names, places, splits, numbers = (np.concatenate(parts)[usable] for parts in (ids, found_at, split, values))
    found = Labelled(whole, names, places, splits, numbers, counts)
    return _with_judged(found, label, seed)


def _with_judged(found: Labelled, label: str, seed: int) -> Labelled:
    """The same, with half of the validation objects as test objects where there are none."""
    split = found.split.copy()
    if not (split == TEST).any():
        val = np.flatnonzero(split == VAL)
        split[val[keyed_uniform(seed, _HALF_KEY, val, 0) < 0.5]] = TEST
    for k in (TRAIN, VAL, TEST):
        if (split == k).sum() < 2:
            purpose = ("learn from", "choose by", "judge")[k]
            raise DataError(
                f"at least 2 objects with {label} to {purpose}",
                got=int((split == k).sum()),
                repair="take a column that more objects have",
            )
    return replace(found, split=split)


def _choose(
    store: TokenStore | Sequence[FieldTokens], label: str, config: ScalarConfig, limits: Mapping[int, int], seed: int
) -> tuple[np.ndarray, dict[int, int]]:
    """Field and row ``(c, 2)`` of the chosen objects, and how many there are of each split."""
    keys = {split: np.zeros(0) for split in limits}
    places = {split: np.zeros((0, 2), np.int64) for split in limits}
    available = dict.fromkeys(limits, 0)
    before = 0
    for number, field in enumerate(store):
        values = observed(field, label, np.arange(len(field)))[0].astype(np.float64)
        usable = np.isfinite(transform(values, config))
        for split, limit in limits.items():
            rows = np.flatnonzero(usable & (field.split == split))
            available[split] += len(rows)
            drawn = np.concatenate([keys[split], keyed_uniform(seed, _CHOICE_KEY, before + rows, 0)])
            where = np.concatenate([places[split], np.stack([np.full(len(rows), number), rows], 1)])
            best = np.argsort(drawn, kind="stable")[:limit]
            keys[split], places[split] = drawn[best], where[best]
        before += len(field)
    return np.concatenate(list(places.values())), available


class HiddenStates:
    """:class:`States` of chosen objects by forward passes of a frozen model.

    Args:
        labels: must not be shown for any object.

    Raises:
        DataError: one is.
    """

    def __init__(self, engine: Engine, slots: Slots, labels: Sequence[str]) -> None:
        self.engine, self.slots = engine, slots
        self.width: int = engine.model.d_model
        self.kept = slots.kept_all()
        for label in labels:
            if (self.kept[:, slots.part_number(label)] == CELLS).any():
                raise DataError(
                    "a label that the model is not shown", got=f"{label} among what is given", where="probe"
                )
        self._lengths = slots.lengths(self.kept)

    def lengths(self) -> np.ndarray:
        return self._lengths

    @torch.no_grad()
    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        hidden, cache, _ = self.engine.prefix(self.slots, rows, self.kept[rows], TYPE_SPECIAL)
        return hidden.float(), cache.lengths
