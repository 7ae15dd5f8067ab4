"""Where objects to predict for come from: token files, or datacubes that are encoded as their turn comes.

Either way their splits say what they were to the model (:mod:`~astromodal.ask.seen`), not how a survey of their own
would be divided.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ask.catalogue import OF_CONFIGURATION, OF_FILES
from ..ask.seen import TrainingRun, warn_unknown
from ..config.schema import Config, DataConfig, EvaluateInput
from ..data import assign_splits, discover
from ..errors import UserError
from ..provenance.manifest import fingerprint_arrays, fingerprint_config
from ..tokenizers import TokenizerSet
from ..tokens import TokenStore, encode_survey
from ..tokens.store import FieldTokens
from .baselines.inputs import JudgedTokens

if TYPE_CHECKING:
    from ..data.datacube import Datacube
    from ..vocabulary.codebook import Codebook


@dataclass
class Asked:
    """Objects that a model is asked about."""

    inputs: dict[str, str]  # field → fingerprint of its objects and their splits
    rows: dict[str, int]  # field → objects
    of: Callable[[Sequence[str]], Iterator[FieldTokens]]  # some of the fields, to be gone through once
    store: Callable[[], TokenStore]  # their token files, to be read again; after all of them, where these are kept
    about: dict[str, Any]  # for the catalogue: fingerprint of the data, and whose splits they are

    @property
    def fields(self) -> Iterator[FieldTokens]:
        """All of them."""
        return self.of(list(self.inputs))

    @property
    def n_rows(self) -> int:
        return sum(self.rows.values())

    def judged(self, run: TrainingRun, codebooks: Mapping[str, Codebook]) -> JudgedTokens:
        """What baselines learn from and answer for; where nobody knows the training run, its splits are believed."""
        if run.store is None and self.about["splits"] == OF_FILES:
            return JudgedTokens(self.store(), self.store(), codebooks)
        return JudgedTokens(run.store, self.store(), codebooks, run.why)


def reads_tokens(config: Config) -> bool:
    """Whether ``evaluate.input`` means the token files."""
    if config.evaluate.input == EvaluateInput.auto:
        return (Path(config.paths.store) / "tokens" / "manifest.json").is_file()
    return config.evaluate.input == EvaluateInput.tokens


def asked_tokens(store: TokenStore, run: TrainingRun, config: Config, log: logging.Logger) -> Asked:
    """The objects of token files."""
    about = {"tokens": store.fingerprint, **run.about(OF_FILES)}
    inputs = {field: entry["fingerprint"] for field, entry in store.entries.items()}
    rows = {field: int(entry["rows"]) for field, entry in store.entries.items()}
    if run.store is None:
        warn_unknown(run, log, "objects count as trained on, or not, as the token files say")
    if run.store is None or (run.reads(store) and set(store.entries) <= set(run.store.entries)):
        return Asked(inputs, rows, lambda names: iter(store.select(list(names))), lambda: store, about)

    def fields(names: Sequence[str]) -> Iterator[FieldTokens]:
        positions = _positions(config)
        for tokens in store.select(list(names)):
            where = positions.get(tokens.field)
            at = None if where is None else where.positions()
            yield run.with_split(tokens, store, at if at is None or len(at) == len(tokens) else None)
        log.info("%s", run.seen.said())

    return Asked(inputs, rows, fields, lambda: store, about)


def _positions(config: Config) -> dict[str, Datacube]:
    """Datacubes of the configured survey by field, where they are there."""
    try:
        return {cube.field: cube for cube in discover(config.data, config.paths.datacube_template)}
    except UserError:
        return {}


@contextmanager
def asked_datacubes(
    cubes: Sequence[Datacube],
    fingerprint: str,
    tokenizers: TokenizerSet,
    run: TrainingRun,
    data: DataConfig,
    scratch: Path,
    log: logging.Logger,
    *,
    keep: bool = False,
) -> Iterator[Asked]:
    """The objects of datacubes, whose token files are made one field after the other and gone after the block.

    Args:
        fingerprint: of the cubes.
        scratch: folder with room for the token files of the largest field, or with ``keep`` of all.
        keep: until the end of the block, to be read again; else a field's are gone when the next is asked for.

    Raises:
        ArtifactError: the cubes have another layout than what the tokenizers were fitted on (at once).
    """
    tokenizers.check(data, cubes)
    if run.store is None:
        warn_unknown(run, log, "objects are divided by data.splits, and those of training are not judged")
        splits = assign_splits(cubes, data)
    else:
        splits = {cube.field: run.seen.splits(cube.ids(), cube.positions()) for cube in cubes}
        log.info("%d fields: %s", len(cubes), run.seen.said())
    about = {"datacubes": fingerprint, **run.about(OF_CONFIGURATION)}
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tokens-", ignore_cleanup_errors=True) as folder:
        inputs = {cube.field: _input(cube, splits[cube.field]) for cube in cubes}
        rows = {cube.field: cube.n_rows for cube in cubes}

        def fields(names: Sequence[str]) -> Iterator[FieldTokens]:
            chosen = [cube for cube in cubes if cube.field in set(names)]
            encoded.update(cube.field for cube in chosen)
            return _encoded(chosen, tokenizers, splits, data, Path(folder), log, keep)

        def store() -> TokenStore:
            for _ in fields([field for field in inputs if field not in encoded]):  # answered by an earlier attempt
                pass
            return TokenStore(folder, remember=False)

        encoded: set[str] = set()
        yield Asked(inputs, rows, fields, store, about)


def _input(cube: Datacube, split: np.ndarray) -> str:
    return fingerprint_config({"cube": cube.fingerprint(), "split": fingerprint_arrays({"split": np.asarray(split)})})


def _encoded(
    cubes: Sequence[Datacube],
    tokenizers: TokenizerSet,
    splits: Mapping[str, np.ndarray],
    data: DataConfig,
    folder: Path,
    log: logging.Logger,
    keep: bool,
) -> Iterator[FieldTokens]:
    for cube in cubes:
        alone = replace(data, fields=[cube.field])  # the other fields' files stay
        if keep:
            encode_survey([cube], tokenizers, {cube.field: splits[cube.field]}, alone, folder, log=log)
            yield TokenStore(folder, remember=False).open(cube.field)
            continue
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
            encode_survey([cube], tokenizers, {cube.field: splits[cube.field]}, alone, own, log=log)
            yield TokenStore(own, remember=False).open(cube.field)
