"""Predictions for a whole survey: field by field, window by window, from token files to the catalogue.

Memory is bounded by one window of objects, whatever the survey's size. Rows come in the order of the token files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..config.schema import Calibrate, EvaluateConfig, HardwareConfig
from ..data.splits import SPLIT_NAMES
from ..files.ids import hash_ids, normalize_ids
from ..machine.random import keyed_uniform
from ..sequences.slots import check_field
from ..tokenizers.fitted import needed
from ..tokens.store import FieldTokens
from ..training.precision import MixedPrecision
from . import catalogue as cat
from .corrections import corrections, shift
from .drawing import Drawer, DrawSettings
from .engine import Engine
from .familiarity import Familiarity
from .posterior import ColumnBins
from .prefixes import CELLS, Slots
from .questions import Plan, Question, questions_to
from .recalibration import Calibration, temper
from .trained import TrainedModel

_SLOT_CELLS = 1 << 22  # tokens of a window
_OUTPUT_CELLS = 1 << 23  # numbers of a window's catalogue
_FRACTION_KEY = 0xF2AC


@dataclass(frozen=True)
class Window:
    """Rows ``start`` to ``stop`` of a field."""

    field: FieldTokens
    start: int
    stop: int
    rows: np.ndarray  # (m,) of the window: those of the wanted splits, maybe none

    @property
    def of_field(self) -> np.ndarray:
        return self.start + self.rows


class Predictor:
    """Answers the questions of a configuration for any number of fields.

    Args:
        trained: the model; it is moved to ``device``.
        settings: ``evaluate`` of the configuration.
        seed: of the draws.
        calibration: of the model, for ``settings.calibration``.
        about: what else the files' metadata say.

    Raises:
        ConfigError: a name that the model does not know, or a question that it cannot answer.
        ArtifactMissingError: to be corrected, but nothing was fitted for any of the questions.
        DataError: to be corrected, but at other quantiles than those that were fitted.
    """

    def __init__(
        self,
        trained: TrainedModel,
        settings: EvaluateConfig,
        hardware: HardwareConfig,
        device: torch.device,
        seed: int = 0,
        log: logging.Logger | None = None,
        calibration: Calibration | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.trained, self.settings, self.layout = trained, settings, trained.layout
        self.log = log or logging.getLogger(__name__)
        self.plan: Plan = questions_to(self.layout, trained.tokenizers, trained.sequence, settings, self.log)
        tokenizers, vocab = trained.tokenizers, self.layout.vocab
        for tokenizer in (tokenizers.spectrum, tokenizers.image):
            if tokenizer is not None:
                tokenizer.use(hardware)
        self.bins = None if tokenizers.scalar is None else ColumnBins(tokenizers.scalar)
        n_bins = [] if self.bins is None else self.bins.n_bins.tolist()
        if hardware.n_threads is not None:
            torch.set_num_threads(hardware.n_threads)
        self.precision = MixedPrecision.of(hardware, device)
        self.engine = Engine(trained.model.to(device), vocab, n_bins, self.precision, settings.batch_size)
        draws = DrawSettings(settings.n_samples, settings.temperature, settings.top_p, seed)
        self.drawer = Drawer(self.engine, tokenizers, self.bins, draws)
        self.seed, self.about = seed, dict(about or {})
        self.flags: dict[str, dict[str, int]] = {}  # by quantity: objects that have each
        self.corrections = corrections(self.plan, settings, calibration, self.log)
        self.familiarity: Familiarity | None = None  # set from outside: it needs the model's own validation objects

    # ------------------------------------------------------------------------------------- schemas

    def schema(self) -> pa.Schema:
        """Of the catalogue."""
        fields: list[pa.Field] = []
        for question in self.plan.questions:
            if question.modality == "scalar":
                n = self.engine.n_bins[question.name] if self.settings.posterior else None
                fields += cat.scalar_fields(question.name, self.settings.quantiles, n)
            else:
                fields += cat.drawn_fields(question.name, self.drawer.size(question))
        if self.familiarity is not None:
            fields += [pa.field(name, pa.float32()) for name in (cat.SURPRISE, cat.PERCENTILE)]
        return cat.make_schema(fields, self.meaning())

    def embedding_schema(self) -> pa.Schema:
        kind = pa.list_(pa.float32(), self.trained.model.d_model)
        return cat.make_schema([pa.field(f"embedding_{how}", kind) for how in self.settings.embeddings], self.meaning())

    def meaning(self) -> dict[str, Any]:
        """What the files' metadata say."""
        questions = {}
        for q in self.plan.questions:
            given = sorted(q.given, key=self.plan.places.__getitem__)
            questions[q.name] = {"modality": q.modality, "unit": self._unit(q), **self._shape(q), "given": given}
            if (applied := self.corrections.get(q.name)) is not None:
                questions[q.name]["calibration"] = {
                    "mode": self.settings.calibration.value,
                    "temperature": applied.temperature,
                    "fitted_on": applied.fitted_on,
                    "said": applied.said(),
                }
        return {
            "model": self.trained.fingerprint,
            "run": self.trained.run_id,
            "precision": self.precision.name,
            "given": self.settings.given,
            "questions": questions,
            "quantiles": list(self.settings.quantiles),
            "flags": cat.FLAGS,
            **self.about,
        }

    def _unit(self, question: Question) -> str:
        if question.modality == "scalar":
            return str(needed(self.trained.tokenizers.scalar, "scalar").configs[question.name].unit)
        if question.modality == "image":
            return "nanomaggies per pixel above the sky"
        unit = self._spectrum(question)["unit"]
        return unit if question.scale is not None else f"{unit}, in units of the spectrum's scale"

    def _spectrum(self, question: Question) -> dict[str, Any]:
        """What the tokenizer knows of a group of spectra."""
        return needed(self.trained.tokenizers.spectrum, "spectrum").layout_["spectra"][question.name]

    def _shape(self, question: Question) -> dict[str, Any]:
        """How the numbers of a list are to be read."""
        if question.modality == "image":
            image = needed(self.trained.tokenizers.image, "image")
            return {"shape": list(image.fitted().array_shape), "bands": list(image.scaling_.bands)}
        if question.modality == "spectrum":
            group = self._spectrum(question)
            return {key: group[key] for key in ("kind", "wave_min", "wave_step", "wave_unit") if key in group}
        return {}

    def save_bins(self, folder: Path) -> None:
        """The edges of the bins of all posteriors, ``posterior_bins.npz``, where these are asked for."""
        scalars = [q.name for q in self.plan.scalars]
        if self.settings.posterior and scalars:
            needed(self.bins, "scalar").save(folder / "posterior_bins.npz", scalars)

    # ------------------------------------------------------------------------------------- windows

    def window_rows(self) -> int:
        """Rows that are looked at together."""
        width = 1 + sum(segment.length + 1 for segment in self.layout.segments)
        sampled = sum(2 * self.drawer.size(q) for q in self.plan.sampled)
        bins = sum(self.engine.n_bins[q.name] for q in self.plan.scalars)
        output = sampled + bins + len(self.settings.embeddings) * self.trained.model.d_model
        return max(min(_SLOT_CELLS // width, _OUTPUT_CELLS // max(output, 1)), self.settings.batch_size)

    def windows(self, field: FieldTokens, splits: Sequence[str] | None) -> Iterator[Window]:
        """A field, cut into windows."""
        step = self.window_rows()
        wanted = list(range(len(SPLIT_NAMES))) if splits is None else [SPLIT_NAMES.index(name) for name in splits]
        for start in range(0, len(field), step):
            rows = np.flatnonzero(np.isin(field.split[start : start + step], wanted))
            if self.settings.fraction < 1:
                ids = normalize_ids(np.asarray(field.ids[start + rows]))
                rows = rows[keyed_uniform(self.seed, _FRACTION_KEY, hash_ids(ids), 0) < self.settings.fraction]
            yield Window(field, start, min(start + step, len(field)), rows)

    def predict(self, window: Window) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Columns of the catalogue and of the embeddings for one window, ``(m,)`` or ``(m, X)``."""
        field, rows = window.field, window.rows
        slots = Slots.read(field, window.start, window.stop, self.layout, self.plan)
        answers = self.engine.answer(slots, rows, self.settings.embeddings)
        ids = normalize_ids(np.asarray(field.ids[window.of_field]))
        columns: dict[str, np.ndarray] = {
            "id": ids,
            "field": np.full(len(rows), field.field),
            "split": np.array(SPLIT_NAMES)[np.asarray(field.split[window.of_field])],
        }
        embeddings = dict(columns) | {f"embedding_{how}": array for how, array in answers.embeddings.items()}
        unfamiliar = np.zeros(len(rows), bool)
        if self.familiarity is not None:
            columns[cat.SURPRISE], columns[cat.PERCENTILE] = self.familiarity.of(field, window.of_field)
            unfamiliar = columns[cat.PERCENTILE] > self.settings.unfamiliar_above
        for question in self.plan.questions:
            flags = self._flags(question, slots, window)
            flags[unfamiliar] |= cat.UNFAMILIAR
            lacks = (flags & cat.LACKS_GIVEN) > 0
            if question.modality == "scalar":
                found = self._scalar(question, answers.posterior[question.name], window, lacks)
            else:
                found, predicted = self._drawn(question, slots, window, lacks, ids)
                flags |= np.where(predicted & ~lacks, cat.SCALE_DRAWN, 0).astype(np.uint8)
            columns |= found | {f"{question.name}_flag": flags}
            self._count(question.name, flags)
        return columns, embeddings

    # ------------------------------------------------------------------------------- one quantity

    def _scalar(
        self, question: Question, posterior: np.ndarray, window: Window, lacks: np.ndarray
    ) -> dict[str, np.ndarray]:
        name, bins = question.name, needed(self.bins, "scalar")
        values, errors = observed(window.field, name, window.of_field)
        correction = self.corrections.get(name)
        if correction is not None:
            posterior = temper(posterior, correction.temperature)
        found = bins.summary(posterior, bins.column(name), self.settings.quantiles, values)
        if correction is not None and self.settings.calibration == Calibrate.conformal:
            shift(found, correction, self.settings.quantiles, values)
        quantiles = {
            cat.quantile_name(name, q): found["quantiles"][:, i] for i, q in enumerate(self.settings.quantiles)
        }
        columns = {f"{name}_{key}": found[key] for key in ("mean", "median", "std", "pit", "crps")} | quantiles
        if self.settings.posterior:
            columns[f"{name}_posterior"] = posterior.astype(np.float32)
        for array in columns.values():
            array[lacks] = np.nan
        return columns | {name: values, f"{name}_err": errors}

    def _drawn(
        self, question: Question, slots: Slots, window: Window, lacks: np.ndarray, ids: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns of a spectrum or cutout, and whose scale was drawn, too ``(m,)``."""
        m, size, can = len(window.rows), self.drawer.size(question), np.flatnonzero(~lacks)
        columns = {f"{question.name}_{end}": np.full((m, size), np.nan) for end in ("mean", "std")}
        predicted = np.zeros(m, bool)
        if len(can):
            scales = None
            if question.scale is not None:
                scales = observed(window.field, question.scale.name, window.of_field[can])[0]
            drawn = self.drawer.draw(slots, window.rows[can], question, hash_ids(ids[can]), scales)
            columns[f"{question.name}_mean"][can] = drawn.mean
            columns[f"{question.name}_std"][can] = drawn.std
            predicted[can] = drawn.scale_predicted
        return columns, predicted

    def _flags(self, question: Question, slots: Slots, window: Window) -> np.ndarray:
        """Bits (m,) uint8 that do not depend on the answer."""
        field, rows = window.field, window.of_field
        flags = np.zeros(len(rows), np.uint8)
        if not question.given:
            flags |= cat.UNCONDITIONAL
        else:
            flags[~slots.has_given(question)[window.rows]] |= cat.LACKS_GIVEN
        if not field.scalar:
            return flags
        if question.modality == "scalar":
            j = field.columns.index(question.name)
            flags[field.scalar["clipped"][rows, j]] |= cat.CLIPPED
            flags[field.scalar["nondetected"][rows, j]] |= cat.NOT_DETECTED
        given = [j for j, name in enumerate(field.columns) if name in question.given]
        if given:
            kept = slots.kept(question)[window.rows]
            shown = kept[:, [slots.part_number(field.columns[j]) for j in given]] == CELLS
            flags[(field.scalar["clipped"][rows][:, given] & shown).any(1)] |= cat.CLIPPED_GIVEN
        return flags

    def _count(self, name: str, flags: np.ndarray) -> None:
        counts = self.flags.setdefault(name, dict.fromkeys(cat.FLAGS, 0))
        for flag, bit in cat.FLAGS.items():
            counts[flag] += int(((flags & bit) > 0).sum())


def observed(field: FieldTokens, column: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observed values and errors of a column ``(m,)`` float64 in its unit; NaN where there is none."""
    j = field.columns.index(column)
    there = field.scalar["present"][rows, j] & ~field.scalar["nondetected"][rows, j]
    values, errors = (np.where(there, field.scalar[key][rows, j], np.nan) for key in ("values", "errors"))
    return values, errors


def write_predictions(
    predictor: Predictor,
    fields: Iterable[FieldTokens],
    folder: Path,
    splits: Sequence[str] | None = None,
    update: Callable[[int], Any] = lambda n: None,
) -> dict[str, Any]:
    """Predict for all fields; ``catalogue.parquet`` in ``folder``, and ``embeddings.parquet`` and
    ``posterior_bins.npz`` where asked for. Returns ``objects``, ``seconds``, ``objects_per_second``, ``flags``.

    Raises:
        ArtifactError: tokens do not belong to the model, or the disk is full; no file is left half-written.
    """
    summary = write_answers(predictor, fields, (folder / cat.CATALOGUE, folder / cat.EMBEDDINGS), splits, update)
    predictor.save_bins(folder)
    return summary


def write_answers(
    predictor: Predictor,
    fields: Iterable[FieldTokens],
    paths: tuple[Path, Path],
    splits: Sequence[str] | None,
    update: Callable[[int], Any],
) -> dict[str, Any]:
    """As :func:`write_predictions`, without the bins, to the ``paths`` of catalogue and embeddings."""
    started, seconds = time.perf_counter(), 0.0
    predictor.flags = {}
    with ExitStack() as stack:
        out = stack.enter_context(cat.writing_catalogue(paths[0], predictor.schema()))
        extra = None
        if predictor.settings.embeddings:
            extra = stack.enter_context(cat.writing_catalogue(paths[1], predictor.embedding_schema()))
        for field in fields:
            check_field(field, predictor.layout)
            for window in predictor.windows(field, splits):
                if len(window.rows):
                    began = time.perf_counter()
                    columns, embeddings = predictor.predict(window)
                    seconds += time.perf_counter() - began
                    out.append(columns)
                    if extra is not None:
                        extra.append(embeddings)
                update(window.stop - window.start)
        n = out.rows
    return {
        "objects": n,
        "seconds": time.perf_counter() - started,
        "seconds_predicting": seconds,
        "objects_per_second": n / seconds if seconds else None,
        "flags": predictor.flags,
    }
