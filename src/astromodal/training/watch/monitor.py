"""Whether what ``training.monitor`` names will be measured: asked before the first step."""

from __future__ import annotations

from collections.abc import Collection

from ...config.reading.key_names import nearest
from ...errors import ConfigError
from ...vocabulary.vocab import VocabSpec


def check_monitor(monitor: str, vocab: VocabSpec, modalities: Collection[str], asked: Collection[str] = ()) -> None:
    """Refuse a metric that no validation of a language model with this vocabulary has.

    Args:
        asked: scalar columns whose questions are scored at every validation.

    Raises:
        ConfigError: with the nearest that there is.
    """
    questions = ["question", *(f"question_{column}" for column in asked)] if asked else []
    known = [f"val/{name}" for name in (*metrics_of(vocab, modalities), *questions)]
    if f"val/{monitor.removeprefix('val/')}" not in known:
        raise ConfigError(
            "a metric of the validation, such as val/score",
            got=monitor,
            where="training.monitor",
            repair=nearest(f"val/{monitor.removeprefix('val/')}", known),
        )


def metrics_of(vocab: VocabSpec, modalities: Collection[str]) -> list[str]:
    """All that a validation may measure (:mod:`~astromodal.loss.scoring`, physical units), less what no object has."""
    columns = list(vocab.scalar_columns) if "scalar" in modalities else []
    groups = [group for group in vocab.spectrum_groups if vocab.block(group).modality in modalities]
    names = ["score", "ce"]
    parts = dict.fromkeys((*modalities, *groups, *columns))
    names += [f"{kind}_{part}" for part in parts for kind in ("ce", "accuracy", "error")]
    names += [f"{kind}_{column}" for column in columns for kind in ("mae", "observed_error")]
    return names + (["crps_scalar", "observed_error_scalar"] if columns else [])
