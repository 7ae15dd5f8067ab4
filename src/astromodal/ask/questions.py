"""What is asked of a model, and what it is given: names from a configuration become questions that it can answer.

:mod:`~astromodal.sequences.names` says what names stand for. The asked quantity is never among what is given for it,
nor is the scale of an asked spectrum, unless it is named.

A model trained with ``sequence.order=random`` or ``ask`` answers any question; it is shown spectra and cutouts first
and scalars last, so that questions about scalars share what is long. A model trained in one order answers only what
stands behind everything that is given.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.schema import EvaluateConfig
from ..errors import ConfigError
from ..sequences.layout import Segment, SequenceLayout
from ..sequences.names import Known, expand, parts_of, quantities, scale_of, with_scales
from ..tokenizers import TokenizerSet
from ..vocabulary.modalities import MODALITIES

BEFORE = "before"  # evaluate.given=[before]


@dataclass(frozen=True)
class Question:
    """One asked quantity: a scalar column, a group of spectra, or the image."""

    name: str
    modality: str
    parts: tuple[Segment, ...]  # to be predicted, in this order
    given: frozenset[str]  # names of parts that may be shown
    place: int  # of its first part in the layout
    scale: Segment | None = None  # of a group of spectra: the column with its scale


@dataclass(frozen=True)
class Plan:
    """All questions to one model.

    ``order``: all parts in the order in which they are shown. ``missing_token``: how absent parts appear.
    """

    questions: tuple[Question, ...]
    order: tuple[Segment, ...]
    places: dict[str, int]  # place of each part in the model's layout
    fixed: bool
    missing_token: bool
    given: frozenset[str]  # names of parts that may be shown for some question, or for the embeddings
    ask: bool = False  # what is given is a prefix whose tokens see each other, and BOS comes behind it

    @property
    def scalars(self) -> list[Question]:
        return [q for q in self.questions if q.modality == "scalar"]

    @property
    def sampled(self) -> list[Question]:
        return [q for q in self.questions if q.modality != "scalar"]


def plan_questions(
    layout: SequenceLayout,
    *,
    order: str,
    missing: str,
    next_types: bool,
    given: Sequence[str] | None,
    predict: Sequence[str] | None,
    any_order: bool = False,
    never: Collection[str] = (),
    log: logging.Logger | None = None,
) -> Plan:
    """The questions of a configuration to a model with this layout.

    Args:
        order, missing, next_types: of the model's ``sequence`` configuration.
        given, predict, any_order: as in ``EvaluateConfig``.
        never: columns without a single training value: their one bin means nothing, so they are not asked.

    Raises:
        ConfigError: an unknown name, nothing that can be asked, or a question that the model cannot answer.
    """
    if not next_types:
        raise ConfigError(
            "a model that is told what it has to predict",
            got="sequence.next_types=false",
            where="evaluate.run",
            repair="train with sequence.next_types=true",
        )
    known = quantities(layout)
    log = log or logging.getLogger(__name__)
    places = {segment.name: i for i, segment in enumerate(layout.segments)}
    asked = _asked(predict, known, never, log)
    fixed = order == "fixed"
    questions = []
    for name in asked:
        parts = known[name]
        place = places[parts[0].name]
        scale = scale_of(name, known)
        shown = _given(name, given, known, places, place, scale)
        question = Question(name, parts[0].modality, parts, shown, place, scale)
        if fixed:
            _check_order(question, places, any_order, log)
            if scale is not None and scale.name not in shown:
                log.warning("%s: its scale is drawn last of what is shown, another place than in training", name)
        questions.append(question)
    order_shown = list(layout.segments)
    if not fixed:
        order_shown = sorted(
            order_shown, key=lambda segment: segment.modality == "scalar"
        )  # stable: otherwise as in the layout
    whole = frozenset(places) if given is None or BEFORE in given else parts_of(_shown(given, known), known)
    return Plan(tuple(questions), tuple(order_shown), places, fixed, missing == "token", whole, order == "ask")


def questions_to(
    layout: SequenceLayout,
    tokenizers: TokenizerSet,
    sequence: Mapping[str, Any],
    settings: EvaluateConfig,
    log: logging.Logger | None = None,
) -> Plan:
    """The questions of ``evaluate.given`` and ``evaluate.predict`` to a model; ``sequence``: as it was trained.

    Raises:
        ConfigError: a name that the model does not know, or a question that it cannot answer.
    """
    scalar = tokenizers.scalar
    never = (
        []
        if scalar is None
        else [name for name, b in zip(scalar.columns, scalar.binners, strict=True) if not b.counts_.sum()]
    )
    return plan_questions(
        layout,
        order=sequence["order"],
        missing=sequence["missing"],
        next_types=sequence["next_types"],
        given=settings.given,
        predict=settings.predict,
        any_order=settings.any_order,
        never=never,
        log=log,
    )


def check_names(layout: SequenceLayout, settings: EvaluateConfig) -> None:
    """Refuse names in ``evaluate.predict`` and ``evaluate.given`` that the model does not know, before any work.

    Raises:
        ConfigError: with the nearest name.
    """
    known = quantities(layout)
    for name in expand(settings.predict or (), known, "evaluate.predict"):
        if MODALITIES[known[name][0].modality].outside:
            raise ConfigError(
                "modalities that can be drawn",
                got=f"{name}, which can be given, not asked",
                where="evaluate.predict",
                repair="leave it out",
            )
    expand([name for name in settings.given or () if name != BEFORE], known, "evaluate.given", also=[BEFORE])


def _asked(predict: Sequence[str] | None, known: Known, never: Collection[str], log: logging.Logger) -> list[str]:
    """The asked quantities in the order of the layout.

    Raises:
        ConfigError: unknown, or nothing that can be asked.
    """
    if predict is None:
        asked = [name for name, parts in known.items() if parts[0].modality == "scalar"]
        if not asked:
            raise ConfigError(
                "evaluate.predict, as the model has no scalar columns",
                got="null",
                where="evaluate",
                repair=f"evaluate.predict=[{','.join(known)}]",
            )
    else:
        asked = sorted(expand(predict, known, "evaluate.predict"), key=list(known).index)
    left_out = [name for name in asked if name in never]
    named = [name for name in left_out if name in (predict or ())]
    if named:
        raise ConfigError(
            "columns with values in the training objects",
            got=f"{named[0]}, which has none",
            where="evaluate.predict",
            repair="leave it out",
        )
    if left_out:
        log.warning("not predicted, as no training object has a value: %s", ", ".join(left_out))
    return [name for name in asked if name not in never]


def _shown(given: Iterable[str], known: Known) -> list[str]:
    """Quantities behind the names that are given; with every group of spectra the column of its scale."""
    return with_scales(expand(given, known, "evaluate.given", also=[BEFORE]), known)


def _given(
    name: str,
    given: Sequence[str] | None,
    known: Known,
    places: dict[str, int],
    place: int,
    scale: Segment | None,
) -> frozenset[str]:
    """Parts that may be shown when ``name`` is asked: without itself, nor the scale that only it has."""
    own = {name} if scale is None else {name, scale.name}
    if given is None:
        return parts_of([other for other in known if other not in own], known)
    if BEFORE in given:
        if len(given) > 1:
            raise ConfigError("evaluate.given=[before] alone", got=list(given), where="evaluate")
        return frozenset(part for part, where in places.items() if where < place)
    if scale is not None and scale.name in given:
        own = {name}  # asked for by name
    found = [other for other in _shown(given, known) if other not in own]
    if given and not found:
        raise ConfigError(
            f"something else than {name} to be given when {name} is asked", got=list(given), where="evaluate.given"
        )
    return parts_of(found, known)


def _check_order(question: Question, places: dict[str, int], any_order: bool, log: logging.Logger) -> None:
    """What a model trained in one order is given stands before what it is asked.

    Raises:
        ConfigError: it does not, and ``any_order`` is off.
    """
    behind = sorted((name for name in question.given if places[name] > question.place), key=places.__getitem__)
    if not behind:
        return
    got = f"{', '.join(behind[:3])}{', …' if len(behind) > 3 else ''} behind {question.name}"
    if any_order:
        log.warning("%s: the model was trained in one order and never saw this one; do not trust it", got)
        return
    raise ConfigError(
        "what is given to stand before what is asked, for a model trained with sequence.order=fixed",
        got=got,
        where="evaluate.given",
        repair="train with sequence=ask or sequence=random, or evaluate.given=[before]",
    )
