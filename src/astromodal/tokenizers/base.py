"""What every tokenizer has in common: fitting on training objects, checks before encoding, one saved bundle.

A tokenizer turns one kind of observation (catalogue values, spectra, cutouts) into discrete codes and back.
It is fitted once, by streaming over the training objects of the survey, judged on held-out objects, and saved as
a folder of plain arrays with ``report.json`` and ``manifest.json``. The bundle remembers the *layout* it was
fitted with (columns, bands, grids) and the fingerprints of the cubes it has seen, so that encoding something
else is refused instead of being silently wrong.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..data.findings import Findings
from ..data.splits import TRAIN, VAL
from ..errors import ArtifactError, ArtifactMissingError, DataError, UserError
from ..files import io
from ..provenance import manifest
from ..vocabulary.modalities import MODALITIES

if TYPE_CHECKING:
    from ..config.schema import DataConfig, HardwareConfig, WorkersConfig
    from ..data.datacube import Datacube
    from ..runs.run import RunContext

HELD_OUT_FRACTION = 0.1  # of the training rows, where the survey has no validation split
COMMAND = "python train_tokenizers.py"


def plain(value: Any) -> Any:
    """Configuration as dicts, lists, strings, numbers: what JSON holds and what two layouts are compared by.

    >>> from ..config.schema import ScalarConfig
    >>> plain(ScalarConfig(unit="mag"))["transform"]
    'identity'
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


class Rows(Mapping[str, np.ndarray]):
    """Field → some of its rows ``(n_rows,)`` bool, told from its splits as it is asked for.

    Args:
        wanted: the split.
        drawn: of these rows, only those that are drawn by ``(seed, field)`` with ``HELD_OUT_FRACTION``, or only the
            others; ``None``: all.
    """

    def __init__(
        self, splits: Mapping[str, np.ndarray], fields: Sequence[str], wanted: int, seed: int, drawn: bool | None = None
    ) -> None:
        self._splits, self._number = splits, {name: k for k, name in enumerate(fields)}
        self._wanted, self._seed, self._drawn = wanted, seed, drawn

    def __getitem__(self, field: str) -> np.ndarray:
        rows = np.asarray(self._splits[field]) == self._wanted
        if self._drawn is not None:
            rng = np.random.default_rng([self._seed, 0x5A3, self._number[field]])
            rows &= (rng.random(len(rows)) < HELD_OUT_FRACTION) == self._drawn
        return rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._number)

    def any(self) -> bool:
        """Whether there is a row."""
        return any(rows.any() for rows in self.values())


@dataclass(frozen=True)
class RowChoice:
    """Which rows of each field a tokenizer is fitted on, and which it is judged on."""

    fit: Rows
    held_out: Rows
    held_out_name: str  # "val", or "train sample" where there is no validation split


def choose_rows(splits: Mapping[str, np.ndarray], fields: Sequence[str], seed: int) -> RowChoice:
    """Training rows for fitting, validation rows for the report.

    Without validation rows a seeded tenth of the training rows is kept out of the fit and reported on.

    Raises:
        DataError: a field has no splits, or no row belongs to the training split.
    """
    missing = [name for name in fields if name not in splits]
    if missing:
        raise DataError("splits for every field", got=f"none for {', '.join(missing)}", repair="run data.splits again")
    fit, held_out = Rows(splits, fields, TRAIN, seed), Rows(splits, fields, VAL, seed)
    if not fit.any():
        raise DataError(
            "at least one object in the training split",
            got=f"none of {sum(len(rows) for rows in fit.values())} objects",
            where=", ".join(fields) or "no fields",
            repair="lower data.splits.val_fraction and test_fraction, or add fields",
        )
    if held_out.any():
        return RowChoice(fit, held_out, "val")
    held_out, others = Rows(splits, fields, TRAIN, seed, True), Rows(splits, fields, TRAIN, seed, False)
    if not others.any():  # a handful of rows, all drawn: fit on them after all
        others = held_out
    return RowChoice(others, held_out, "train sample")


_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


def first_difference(fitted: Any, given: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first place where two plain configurations differ; None if equal.

    >>> first_difference({"a": {"min": 1}}, {"a": {"min": 2}})
    ('a.min', 1, 2)
    >>> first_difference({"flux": "f"}, {"flux": "f", "mask": None})
    """
    if isinstance(fitted, Mapping) and isinstance(given, Mapping):
        for key in (*fitted, *given):  # what an older version did not know, and is null, makes no difference
            if (key in fitted) != (key in given) and (fitted if key in fitted else given)[key] is not None:
                return f"{path}.{key}" if path else str(key), fitted.get(key, "absent"), given.get(key, "absent")
        both = [key for key in fitted if key in given]
        for key in both:
            found = first_difference(fitted[key], given[key], f"{path}.{key}" if path else str(key))
            if found:
                return found
        if both != [key for key in given if key in fitted]:  # the order of bands and columns is part of the layout
            return path or "order", list(fitted), list(given)
        return None
    return None if fitted == given else (path, fitted, given)


class Tokenizer(ABC):
    """Fit, encode, decode, save, load. Subclasses: ``ScalarTokenizer``, ``SpectrumTokenizer``, ``ImageTokenizer``.

    Attributes set by :meth:`fit` and :meth:`load`: ``layout_`` (plain dict, see :meth:`layout`), ``inputs_``
    (field → fingerprint of the cube), ``report_`` (plain dict, without arrays).

    A subclass says ``name``, implements ``fit`` (which calls :meth:`_start_fit` first and
    :meth:`_finish_fit` last), ``encode``, ``decode``, ``layout``, ``_write`` and ``_read``.
    """

    workers: WorkersConfig | None = None  # who reads the survey while fitting; default: this process
    name: ClassVar[str]  # of its modality, in MODALITIES: the option tokenizer=<name>

    def __init__(self, config: Any) -> None:
        self.config = config
        self.layout_: dict[str, Any] = {}
        self.inputs_: dict[str, str] = {}
        self.report_: dict[str, Any] = {}
        self._fingerprint: str | None = None

    # ------------------------------------------------------------------ what a subclass implements

    @abstractmethod
    def fit(
        self,
        cubes: Sequence[Datacube],
        splits: Mapping[str, np.ndarray],
        data: DataConfig,
        run: RunContext | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Fit on the training rows of the cubes; return the report on held-out rows, with arrays for plots.

        Raises:
            DataError: nothing can be fitted; the message says where was looked.
        """

    @abstractmethod
    def layout(self, data: DataConfig) -> dict[str, Any]:
        """The part of the data configuration that gives codes their meaning, as plain values, in order."""

    @abstractmethod
    def _write(self, folder: Path) -> list[Path]:
        """Write the bundle's files atomically; return those whose content is the tokenizer."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path) -> Self:
        """Read what :meth:`_write` wrote, ``layout_`` and ``inputs_`` included."""

    def sizes(self) -> dict[str, Any]:
        """How many codes and tokens there are, as plain values, for the summary of a run."""
        return {}

    def use(self, hardware: HardwareConfig) -> Self:
        """Compute where ``hardware.device`` says; without networks there is nothing to move."""
        return self

    # ------------------------------------------------------------------------------- shared parts

    @property
    def folder_name(self) -> str:
        """Folder of its bundle inside ``<store>/tokenizers``."""
        return MODALITIES[self.name].folder

    def _start_fit(
        self, cubes: Sequence[Datacube], splits: Mapping[str, np.ndarray], data: DataConfig, seed: int
    ) -> RowChoice:
        """Remember layout and inputs; choose the rows to fit on and the rows to report on."""
        if not cubes:
            raise DataError("at least one datacube", got="none", repair="set data.root and paths.datacube_template")
        self.layout_ = plain(self.layout(data))
        self.inputs_ = {cube.field: cube.fingerprint() for cube in cubes}
        self._fingerprint = None
        return choose_rows(splits, [cube.field for cube in cubes], seed)

    def _finish_fit(self, report: dict[str, Any], findings: Findings, run: RunContext | None) -> dict[str, Any]:
        """Add what was found and lost, keep the report (without its ``arrays``) for saving and return it whole."""
        report |= {"found": findings.totals(), "warnings": findings.warnings()}
        for line in report["warnings"]:
            self._log(run).warning("%s", line)
        self.report_ = plain({key: value for key, value in report.items() if key != "arrays"})
        return report

    @staticmethod
    def _log(run: RunContext | None) -> logging.Logger:
        return logging.getLogger(__name__) if run is None else run.log

    @property
    def fingerprint(self) -> str:
        """Hash of the bundle's files and configuration, as in its manifest; known once saved or loaded."""
        if self._fingerprint is None:
            raise ArtifactError(f"a saved {self.name} tokenizer", got="one that was not saved", repair="call save()")
        return self._fingerprint

    def save(self, folder: str | Path, run_id: str = "") -> dict[str, Any]:
        """Write the bundle, ``report.json`` and, last, ``manifest.json``; return the manifest.

        Raises:
            ArtifactError: another process writes there, or the disk is full.
        """
        folder = Path(folder).absolute()
        with io.FileLock(folder / f"{self.name}_tokenizer"):
            files = self._write(folder)
            io.write_json(folder / "report.json", self.report_)
            written = manifest.write_manifest(
                folder,
                kind=f"{self.name}_tokenizer",
                config=plain(self.config),
                inputs=self.inputs_,
                files=files,
                run_id=run_id,
                beside=["report.json"],
            )
        self._fingerprint = written["fingerprint"]
        return written

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a saved bundle.

        Raises:
            ArtifactMissingError: there is none; the message names the command that makes it.
            ArtifactError: files are damaged or are not those of the manifest.
        """
        folder = Path(folder)
        command = f"{COMMAND} tokenizer={cls.name}"
        if not (folder / "manifest.json").exists():
            raise ArtifactMissingError(
                f"a fitted {cls.name} tokenizer", got="no manifest.json", where=folder, repair=f"run {command}"
            )
        found = manifest.check_manifest(folder, verify_files=True, repair=f"run {command}")
        try:
            tokenizer = cls._read(folder)
        except UserError:
            raise
        except _UNREADABLE as error:
            raise ArtifactError(
                f"a complete {cls.name} tokenizer", got=repr(error), where=folder, repair=f"run {command} again"
            ) from error
        tokenizer._fingerprint = found["fingerprint"]
        if (folder / "report.json").exists():
            tokenizer.report_ = io.read_json(folder / "report.json")
        return tokenizer

    def check(self, data: DataConfig, cubes: Iterable[Datacube] = ()) -> None:
        """Refuse a data layout other than the fitted one, and cubes that changed since; new cubes are fine.

        Raises:
            ArtifactError: with the name of what differs and both values or fingerprints.
        """
        repair = f"run {COMMAND} tokenizer={self.name}"
        found = first_difference(self.layout_, plain(self.layout(data)))
        if found:
            name, fitted, given = found
            raise ArtifactError(
                f"{name} = {fitted}, as the {self.name} tokenizer was fitted", got=given, where="data", repair=repair
            )
        for cube in cubes:
            fitted = self.inputs_.get(cube.field)
            if fitted is not None and fitted != cube.fingerprint():
                raise ArtifactError(
                    f"the cube that the {self.name} tokenizer was fitted on (fingerprint {fitted})",
                    got=f"one that changed since (fingerprint {cube.fingerprint()})",
                    where=cube.path,
                    repair=f"run {COMMAND}",
                )
