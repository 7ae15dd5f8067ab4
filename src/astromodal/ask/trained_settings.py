"""Settings in a file of weights, compared with the shapes of the weights before anything is built from them.

The file may be a stranger's: a width of 10^6 or ten million layers is refused because the weights, which are as large
as the file, do not have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..config.checks.saved import check_count, typed
from ..config.schema import ModelConfig, SequenceConfig, VocabConfig
from ..errors import ArtifactError
from ..files.io import plain
from ..training.checkpoints.checkpoint import model_state

_MODEL = ("d_model", "n_layers", "n_heads", "d_ff", "max_len", "tie_head")


@dataclass(frozen=True)
class TrainedSettings:
    """What a model and its sequences are built from."""

    model: ModelConfig
    sequence: dict[str, Any]
    vocab: VocabConfig
    vocab_spec: Mapping[str, Any]
    vocab_size: int
    n_types: int
    grid_width: int


def read_settings(state: Any, where: object, repair: str) -> tuple[TrainedSettings, dict[str, Tensor]]:
    """Settings and weights of a file that ``train_lm.py`` has written, which fit each other.

    Raises:
        ArtifactError: it is none, a setting is of another type, or not that of the weights.
    """
    config = state.get("config") if isinstance(state, Mapping) else None
    needed = ("vocab_spec", "sequence", "model", "vocab", "grid_width", "vocab_size", "n_types")
    if not isinstance(config, Mapping) or any(key not in config for key in needed):
        raise ArtifactError(
            "weights that train_lm.py has written", got="a file without its configuration", where=where, repair=repair
        )
    weights = model_state(state, where)
    model = typed(ModelConfig, config["model"], where, _MODEL)
    sequence = typed(SequenceConfig, config["sequence"], where, ("modalities", "order", "missing", "next_types"))
    most = max((n for value in weights.values() for n in value.shape), default=0)
    vocab = typed(VocabConfig, config["vocab"], where)
    for name, size in vars(vocab).items():
        if size is not None:
            check_count(size, f"vocab.{name}", most, where, least=0)
    if not isinstance(config["vocab_spec"], Mapping):
        raise ArtifactError("a vocabulary", got=type(config["vocab_spec"]).__name__, where=where)
    counts = {key: check_count(config[key], key, most, where) for key in ("vocab_size", "n_types", "grid_width")}
    settings = TrainedSettings(model, plain(asdict(sequence)), vocab, config["vocab_spec"], **counts)
    _check_shapes(settings, weights, most, where)
    return settings, weights


def _check_shapes(settings: TrainedSettings, weights: Mapping[str, Tensor], most: int, where: object) -> None:
    """Compare what decides the size of the model with the weights.

    Raises:
        ArtifactError: naming the first weights that differ.
    """
    model = settings.model
    for name in ("d_model", "n_heads", "d_ff", "max_len"):
        check_count(getattr(model, name), f"model.{name}", most, where)
    if model.values is not None:
        check_count(model.values.n_features, "model.values.n_features", most, where)
    width = model.d_model
    rows = {
        "token_embedding": settings.vocab_size,
        "type_embedding": settings.n_types,
        "position_embedding": model.max_len,
        "column_embedding": settings.grid_width,
    }
    expected: dict[str, tuple[int, ...]] = {f"{name}.weight": (n, width) for name, n in rows.items()}
    expected |= {"blocks.0.mlp_in.weight": (model.d_ff, width), "norm.weight": (width,)}
    if not model.tie_head:
        expected["head.weight"] = (settings.vocab_size, width)
    for name, shape in expected.items():
        found = tuple(weights[name].shape) if name in weights else "none"
        if found != shape:
            raise ArtifactError(f"weights {name} of {shape}, as the settings beside them say", got=found, where=where)
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    if len(blocks) != model.n_layers:
        raise ArtifactError(
            f"weights of {model.n_layers} layers, as the settings beside them say", got=len(blocks), where=where
        )
