"""A trained model that nothing more is trained of, with the token files that it is asked about."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ask.engine import Engine
from ..ask.questions import Plan
from ..ask.trained import TrainedModel, find_weights, load_trained
from ..config.schema import HardwareConfig
from ..files.io import read_json
from ..tokenizers.fitted import needed
from ..tokens.store import TokenStore
from .states import hidden_plan


@dataclass(frozen=True)
class Frozen:
    """What is asked for hidden states, and what it is shown: nothing of the labels."""

    trained: TrainedModel
    tokens: TokenStore
    labels: tuple[str, ...]
    plan: Plan
    engine: Engine
    hardware: HardwareConfig

    def meaning(self) -> dict[str, Any]:
        """Which model was shown what."""
        return {
            "given": sorted(self.plan.given, key=self.plan.places.__getitem__),
            "model": self.trained.fingerprint,
            "run": self.trained.run_id,
            "precision": self.engine.precision.name,
        }


def open_frozen(
    weights: Path,
    labels: Sequence[str],
    given: Sequence[str] | None = None,
    hardware: HardwareConfig | None = None,
    store: Path | None = None,
    batch_size: int = 64,
    log: logging.Logger | None = None,
) -> Frozen:
    """The model of a run of train_lm.py on its device.

    Args:
        weights: the run directory or a file of weights.
        labels: columns that the model must not be shown.
        given: what it is shown; None: everything else.
        store: ``paths.store``; None: that of the run.

    Raises:
        ArtifactMissingError: weights, tokenizers or token files are missing.
        ArtifactError: the tokens do not belong to the model.
        ConfigError: the model does not know a label or what is given, or a label is named as given.
    """
    from ..training.precision import MixedPrecision
    from ..training.utils import resolve_device

    log, hardware = log or logging.getLogger(__name__), hardware or HardwareConfig()
    weights = find_weights(str(weights), ".")
    root = store or _store_of(weights)
    trained = load_trained(weights, root, log)
    tokens = TokenStore(root)
    tokens.check_tokenizers(trained.tokenizers)
    plan = hidden_plan(trained.layout, trained.sequence, labels, given, log)
    device = resolve_device(hardware.device)
    n_bins = [len(binner.centers_) for binner in needed(trained.tokenizers.scalar, "scalar").binners]
    precision = MixedPrecision.of(hardware, device)
    engine = Engine(trained.model.to(device), trained.layout.vocab, n_bins, precision, batch_size)
    return Frozen(trained, tokens, tuple(labels), plan, engine, hardware)


def _store_of(weights: Path) -> Path:
    """``paths.store`` of the run that the weights belong to, relative to where it was started."""
    home = next((p for p in weights.resolve().parents[:2] if (p / "config.json").is_file()), None)
    own = None if home is None else (read_json(home / "config.json").get("paths") or {}).get("store")
    if home is None or own is None:
        return Path("artifacts")
    places = [base / own for base in (Path.cwd(), *home.parents)]
    return next((p for p in places if (p / "tokens").is_dir()), Path(own or "artifacts"))
