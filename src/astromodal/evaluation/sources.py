"""Where objects to predict for come from: token files, or datacubes that are encoded as their turn comes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config.schema import Config, DataConfig, EvaluateInput
from ..tokenizers import TokenizerSet
from ..tokens import TokenStore, encode_survey
from ..tokens.store import FieldTokens

if TYPE_CHECKING:
    from ..data.datacube import Datacube


def reads_tokens(config: Config) -> bool:
    """Whether ``evaluate.input`` means the token files."""
    if config.evaluate.input == EvaluateInput.auto:
        return (Path(config.paths.store) / "tokens" / "manifest.json").is_file()
    return config.evaluate.input == EvaluateInput.tokens


def encoded_fields(
    cubes: Sequence[Datacube], splits: Mapping[str, np.ndarray], tokenizers: TokenizerSet, data: DataConfig,
    scratch: Path, log: logging.Logger | None = None,
) -> Iterator[FieldTokens]:  # fmt: skip
    """The cubes' tokens, one field after the other; the files of one are gone when the next is asked for.

    Args:
        scratch: folder with room for the token files of the largest field.

    Raises:
        ArtifactError: the cubes have another layout than what the tokenizers were fitted on (at once).
    """
    tokenizers.check(data, cubes)

    def fields() -> Iterator[FieldTokens]:
        for cube in cubes:
            with tempfile.TemporaryDirectory(dir=scratch, prefix=".tokens-", ignore_cleanup_errors=True) as folder:
                encode_survey([cube], tokenizers, {cube.field: splits[cube.field]}, data, folder, log=log)
                yield TokenStore(folder, remember=False).open(cube.field)

    return fields()
