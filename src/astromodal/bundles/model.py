"""A trained model that is asked from Python: ``astromodal.load(folder)``.

Answers are those of ``evaluate.py``: the same engine, the same draws (keyed by seed and object id), the same windows of
rows, so that the same table with the same settings gives the same bits. Rows that are asked in other company (one by
one, or in other pieces of a stream) agree to the rounding of floating-point sums, and draw by the same random numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..ask.catalogue import as_column
from ..ask.questions import BEFORE
from ..config.checks.bounds import check_value
from ..config.checks.combinations import check_evaluate
from ..config.checks.saved import typed
from ..config.reading.explain import nearest
from ..config.schema import Calibrate, DataConfig, EvaluateConfig, HardwareConfig
from ..errors import ConfigError
from .rows import RowEncoder
from .tables import UNIT, Source, is_stream, source_of

if TYPE_CHECKING:
    from ..ask.familiarity import Familiarity
    from ..ask.prediction import Predictor
    from ..ask.seen import TrainingRun
    from ..ask.trained import TrainedModel
    from ..tokens.store import FieldTokens

QUANTILES = (0.16, 0.5, 0.84)
OPTIONS = (
    "any_order",
    "posterior",
    "n_samples",
    "temperature",
    "top_p",
    "unfamiliar_above",
    "calibration",
    "batch_size",
)
_NOT_SHOWN = ("field", "split")  # columns of a catalogue that say where in a survey an object stands


@dataclass
class Model:
    """A trained model with its tokenizers; :func:`~.opening.load` makes it.

    ``predict``, ``embed`` and ``encode`` take tables with the survey's own columns: pyarrow, pandas, astropy (with
    units), a dict of arrays or of one object's values, the path of a Parquet file; or a stream of them (an Arrow
    reader, a generator). The same kind comes out, a row for each row.
    """

    trained: TrainedModel
    data: DataConfig
    hardware: HardwareConfig
    trained_on: TrainingRun  # its validation objects are what is familiar
    calibration: Path  # the file, whether there is one or not
    describe: Callable[[], dict[str, Any]]  # what the run is, for explain()
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("astromodal"))
    home: Any = field(default=None, repr=False)  # a folder that is gone when nobody asks the model any more
    _familiar: dict[Any, Familiarity] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"astromodal model of {self.data.name}, {self.trained.fingerprint[:8]}; explain() says more"

    @property
    def precision(self) -> str:
        """Arithmetic of the forward pass."""
        from ..training.precision import MixedPrecision
        from ..training.utils import resolve_device

        return MixedPrecision.of(self.hardware, resolve_device(self.hardware.device)).name

    def columns(self) -> list[str]:
        """Columns of a table that the model reads, where they are there."""
        return RowEncoder(self.trained, self.data, "any", self.log).columns()

    # ------------------------------------------------------------------------------------ asking

    def predict(
        self,
        table: Any,
        predict: Sequence[str] | str | None = None,
        given: Sequence[str] | str | None = None,
        quantiles: Sequence[float] = QUANTILES,
        *,
        familiarity: bool | None = None,
        seed: int = 0,
        field: str | None = None,
        **options: Any,
    ) -> Any:
        """What the model expects of ``predict``, given what a table has of ``given``, in the survey's units.

        Args:
            table: objects; see the class.
            predict: columns, groups of spectra, ``image``, or modalities; None: every scalar column.
            given: the same; None: everything else that an object has; [] nothing.
            quantiles: of the posterior of each scalar column.
            familiarity: how surprising what is given is, compared with validation objects; None: where they are known.
            seed: of the draws of spectra and cutouts.
            field: whose zero points hold for cutouts, in a survey that has them by field.
            options: others of the section ``evaluate``: any_order, posterior, n_samples, temperature, top_p,
                unfamiliar_above, calibration, batch_size.

        Returns:
            The same kind of table: ``id`` and the columns that :mod:`~astromodal.ask.catalogue` describes,
            flags included.

        Raises:
            ConfigError: a question that this model cannot answer, or an unknown option.
            DataError: a column is missing, of another type, or in a unit that cannot be converted.
        """
        settings = self._settings(options, predict=_names(predict), given=_names(given), quantiles=list(quantiles))
        return self._ask(table, settings, seed, field, familiarity)

    def embed(
        self,
        table: Any,
        how: Sequence[str] | str = "mean",
        given: Sequence[str] | str | None = None,
        *,
        field: str | None = None,
        **options: Any,
    ) -> Any:
        """Hidden states behind what is given: ``embedding_mean`` over its tokens and, or, ``embedding_last``.

        Args, Raises: as :meth:`predict`; ``how``: ``mean``, ``last``, or both.
        """
        settings = self._settings(options, predict=[], given=_names(given), embeddings=_names(how))
        return self._ask(table, settings, 0, field, False)

    def encode(self, table: Any, field: str | None = None) -> Any:
        """Tokens of a table's objects: of each scalar column and of each group of spectra and the cutout, null where an
        object has none. :meth:`decode` turns them back into values.

        Raises:
            DataError: as :meth:`predict`.
        """
        from .tokens import token_table

        encoder = RowEncoder(self.trained, self.data, field, self.log)

        def answer(source: Source) -> Iterator[pa.Table]:
            yield from (token_table(tokens, self.trained) for tokens in encoder.tokens(source, 4096))

        return _same_kind(table, answer, token_table(None, self.trained).schema, encoder.report)

    def decode(self, table: Any) -> Any:
        """Values of tokens, in the survey's units: what :meth:`encode` makes of a table, or any codes of one's own.

        Raises:
            DataError: tokens of another length, or beyond the codebook.
        """
        from .tokens import value_schema, values_of

        def answer(source: Source) -> Iterator[pa.Table]:
            yield from (values_of(piece, self.trained) for piece in source.pieces(source.names, 256))

        return _same_kind(table, answer, value_schema(self.trained), lambda: None)

    def explain(self) -> Any:
        """What the model was trained on, what it can be asked, and its judged figures; prints as text."""
        from .about import explanation

        return explanation(self)

    # --------------------------------------------------------------------------------- internals

    def _settings(self, options: Mapping[str, Any], **asked: Any) -> EvaluateConfig:
        for name, value in options.items():
            if name not in OPTIONS:
                raise ConfigError(
                    f"an option among {', '.join(OPTIONS)}",
                    got=name,
                    where="predict",
                    repair=nearest(name, list(OPTIONS)),
                )
            check_value(f"evaluate.{name}", value)
        settings = typed(EvaluateConfig, {**options, **asked}, "predict")
        check_evaluate(settings)
        return settings

    def _ask(self, table: Any, settings: EvaluateConfig, seed: int, field: str | None, familiarity: bool | None) -> Any:
        predictor = self._predictor(settings, seed, familiarity)
        named = [name for name in settings.given or () if name != BEFORE]
        asked = {
            q.name for q in predictor.plan.questions if not any(q.name in o.given for o in predictor.plan.questions)
        }
        encoder = RowEncoder(self.trained, self.data, field, self.log, named, asked)
        schema = answer_schema(predictor)
        step = predictor.window_rows()

        def answer(source: Source) -> Iterator[pa.Table]:
            for tokens in encoder.tokens(source, step):
                yield _answers(predictor, tokens, schema)

        return _same_kind(table, answer, schema, encoder.report)

    def _predictor(self, settings: EvaluateConfig, seed: int, familiarity: bool | None) -> Predictor:
        from ..ask.familiarity import fit_familiarity
        from ..ask.prediction import Predictor
        from ..ask.recalibration import Calibration
        from ..training.utils import resolve_device

        calibration = None
        if settings.calibration != Calibrate.off:
            calibration = Calibration.load(self.calibration, self.trained.fingerprint)
        known = self.trained_on.store is not None
        settings = replace(settings, familiarity=bool(known if familiarity is None else familiarity))
        device = resolve_device(self.hardware.device)
        predictor = Predictor(self.trained, settings, self.hardware, device, seed, self.log, calibration)
        if settings.familiarity:
            key = (str(settings.given), str(settings.predict), settings.any_order, seed)
            if key not in self._familiar:
                self._familiar[key] = fit_familiarity(predictor, self.trained_on, seed)
            predictor.familiarity = self._familiar[key]
        return predictor


def answer_schema(predictor: Predictor) -> pa.Schema:
    """Of an answer: the catalogue's, or that of the embeddings, without where in a survey an object stands."""
    settings = predictor.settings
    whole = predictor.embedding_schema() if settings.embeddings else predictor.schema()
    units = {name: about["unit"] for name, about in predictor.meaning()["questions"].items() if about["unit"]}
    fields = []
    for item in whole:
        name = _question(item.name, units)
        metadata = {UNIT: units[name].encode()} if name else None
        if item.name not in _NOT_SHOWN:
            fields.append(item.with_metadata(metadata) if metadata else item)
    return pa.schema(fields, metadata=whole.metadata)


def _question(column: str, units: Mapping[str, str]) -> str | None:
    """The question whose unit a column of the answer is in; None for a flag, a probability, or none."""
    for name in units:
        if column == name:
            return name
        if column.startswith(f"{name}_"):
            end = column.removeprefix(f"{name}_")
            if end in ("err", "mean", "median", "std", "crps") or (end[:1] == "q" and end[1:2].isdigit()):
                return name
    return None


def _answers(predictor: Predictor, tokens: FieldTokens, schema: pa.Schema) -> pa.Table:
    from ..ask.prediction import Window

    columns, embeddings = predictor.predict(Window(tokens, 0, len(tokens), np.arange(len(tokens))))
    found = embeddings if predictor.settings.embeddings else columns
    return pa.Table.from_arrays([as_column(found[f.name], f.type) for f in schema], schema=schema)


def _same_kind(table: Any, answer: Any, schema: pa.Schema, report: Any) -> Any:
    """The answer about a table, or about each of a stream, as the kind of table that it is; then ``report()``."""
    if not is_stream(table):
        source = source_of(table)
        found = pa.concat_tables([schema.empty_table(), *answer(source)])
        report()
        return source.back(found)
    if isinstance(table, pa.RecordBatchReader):

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in table:
                for part in answer(source_of(batch)):
                    yield from part.to_batches()
            report()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def tables() -> Iterator[Any]:
        for piece in table:
            source = source_of(piece)
            yield source.back(pa.concat_tables([schema.empty_table(), *answer(source)]))
        report()

    return tables()


def _names(names: Sequence[str] | str | None) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else [str(name) for name in names]
