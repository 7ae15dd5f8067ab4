"""A trained model with everything that gives its tokens a meaning: weights, layout, tokenizers, and checks of these."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ArtifactError, ArtifactMissingError, ConfigError
from ..files.bundle_files import WEIGHTS as BUNDLE
from ..files.bundle_files import load_weights_file
from ..files.io import read_mapping
from ..models import CausalTransformerLM
from ..models.values import token_values
from ..provenance.manifest import fingerprint_file
from ..sequences.layout import SequenceLayout, build_layout
from ..tokenizers import TokenizerSet
from ..training.checkpoints.checkpoint import load_model_state
from ..vocabulary.modalities import MODALITIES
from .trained_settings import TrainedSettings, read_settings

WEIGHTS = ("best_model.pt", "final_model.pt", "checkpoints/last.pt", BUNDLE)
REPAIR = "evaluate.run=runs/train_lm/<name>/<run_id>, or a file of weights from it"


@dataclass
class TrainedModel:
    """A model that can be asked."""

    model: CausalTransformerLM
    layout: SequenceLayout
    tokenizers: TokenizerSet
    sequence: dict[str, Any]  # order, missing, next_types, modalities
    weights: Path
    run_id: str | None  # of the run of train_lm, where known
    tokenizers_root: Path | None = None  # where the tokenizers were loaded from
    made_from: str | None = None  # fingerprint of the run's file of weights, where these are a bundle's copy of it

    @property
    def fingerprint(self) -> str:
        """Of the file of weights that the run has written."""
        return self.made_from or fingerprint_file(self.weights)


def find_weights(run: str, runs: str | Path, store: str | None = None) -> Path:
    """The file of weights that ``evaluate.run`` names.

    Args:
        run: ``auto``, a run directory, or a file.
        runs: ``paths.runs``.
        store: with ``auto``, only runs on the tokens of this ``paths.store``; None: any.

    Raises:
        ArtifactMissingError: there is none.
    """
    if run == "auto":
        return _weights_of(_newest(Path(runs) / "train_lm", store))
    path = Path(run)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ArtifactMissingError("a run directory or a file of weights", got="nothing", where=path, repair=REPAIR)
    return _weights_of(path)


def _weights_of(run_dir: Path) -> Path:
    for name in WEIGHTS:
        if (run_dir / name).is_file():
            return run_dir / name
    raise ArtifactMissingError(f"weights ({', '.join(WEIGHTS)})", got="none", where=run_dir, repair=REPAIR)


def _store_of(config: Mapping[str, Any]) -> str | None:
    """``paths.store`` of a run's configuration, where it is text."""
    paths = config.get("paths")
    store = paths.get("store") if isinstance(paths, Mapping) else None
    return store if isinstance(store, str) else None


def _newest(root: Path, store: str | None) -> Path:
    """The newest run below ``root`` that ended well."""
    found = []
    for path in (p for depth in range(4) for p in root.glob("*/" * depth + "run.json")):
        try:
            record, config = read_mapping(path), read_mapping(path.parent / "config.json")
        except ArtifactError:
            continue
        if record.get("status") == "DONE" and store in (None, _store_of(config)):
            found.append((str(record.get("ended")), path.parent))
    if not found:
        of = "" if store is None else f" on the tokens of {store}"
        raise ArtifactMissingError(
            f"a finished run of train_lm.py{of}", got="none", where=root, repair=f"run python train_lm.py, or {REPAIR}"
        )
    return max(found)[1]


def run_folder(weights: Path) -> Path | None:
    """The directory of the run that a file of weights or a checkpoint lies in; None: it lies elsewhere."""
    return next((p for p in weights.resolve().parents[:2] if (p / "run.json").is_file()), None)


def load_trained(weights: Path, store: str | Path, log: logging.Logger) -> TrainedModel:
    """The model in a file of weights, a checkpoint or a bundle, with its tokenizers.

    Args:
        store: where tokenizers are looked for if not in the store of the model's run.

    Raises:
        ArtifactMissingError: tokenizers are missing.
        ArtifactError: they are not those that the model was trained with, or the file is not of train_lm.py.
    """
    content = load_weights_file(weights)
    if weights.name == BUNDLE:
        return of_bundle(content, weights)
    settings, state = read_settings(content, weights, REPAIR)
    folder = run_folder(weights)
    record = {} if folder is None else read_mapping(folder / "run.json")
    tokenizers, root = _tokenizers(folder, Path(store), record, log)
    run_id = record.get("run_id") if isinstance(record.get("run_id"), str) else None
    return build_trained(settings, state, tokenizers, root, weights, run_id)


def of_bundle(content: Mapping[str, Any], weights: Path) -> TrainedModel:
    """The model of a bundle; ``content``: of :func:`~astromodal.files.bundle_files.bundle_state`.

    Raises:
        ArtifactMissingError, ArtifactError: tokenizers are missing or damaged, or do not belong to the weights.
    """
    settings, state = read_settings(content, weights, REPAIR)
    root = weights.parent / "tokenizers"
    tokenizers = TokenizerSet.load(root)
    return build_trained(settings, state, tokenizers, root, weights, content["run_id"], content["made_from"])


def build_trained(
    settings: TrainedSettings,
    state: Mapping[str, Tensor],
    tokenizers: TokenizerSet,
    root: Path,
    weights: Path,
    run_id: str | None,
    made_from: str | None = None,
) -> TrainedModel:
    """The model with these settings and weights, from the file ``weights``.

    Raises:
        ArtifactError: the tokenizers have another vocabulary, or the weights are those of another model.
    """
    model = settings.model
    layout = build_layout(tokenizers, settings.sequence["modalities"], model.max_len, settings.vocab)
    if layout.vocab.to_dict() != settings.vocab_spec or layout.vocab.vocab_size > settings.vocab_size:
        raise ArtifactError(
            "tokenizers with the vocabulary of the model",
            got="another vocabulary",
            where=weights,
            repair="set paths.store to the folder of those that it was trained with",
        )
    network = CausalTransformerLM(
        settings.vocab_size,
        settings.n_types,
        model.d_model,
        model.n_layers,
        model.n_heads,
        model.d_ff,
        0.0,
        max_len=model.max_len,
        tie_head=model.tie_head,
        grid_width=settings.grid_width,
        values=token_values(layout.vocab, tokenizers.codebooks(), model.values),
    )
    load_model_state(network, state, weights)
    return TrainedModel(network.eval(), layout, tokenizers, settings.sequence, weights, run_id, root, made_from)


def _tokenizers(
    folder: Path | None, store: Path, record: dict[str, Any], log: logging.Logger
) -> tuple[TokenizerSet, Path]:
    """The tokenizers of a run, from its own store where that is still there; and their folder."""
    places = [store]
    if folder is not None and (folder / "config.json").is_file():
        own = Path(_store_of(read_mapping(folder / "config.json")) or store)
        places = [*(base / own for base in (Path.cwd(), *folder.parents)), store]  # relative to where it was started
    root = next((p / "tokenizers" for p in places if (p / "tokenizers").is_dir()), places[0] / "tokenizers")
    inputs = record.get("inputs")
    inputs = inputs if isinstance(inputs, dict) else {}
    expected = {name: value for name, value in inputs.items() if name.endswith("_tokenizer")}
    tokenizers = TokenizerSet.load(root)
    if not expected:
        log.warning("no run.json beside the weights: that %s is what they were trained with cannot be checked", root)
        return tokenizers, root
    found = {f"{name}_tokenizer": value for name, value in tokenizers.fingerprints.items()}
    for name, fingerprint in expected.items():
        spoken = name.replace("_", " ")
        if name.removesuffix("_tokenizer") not in MODALITIES:
            raise ConfigError(
                f"the plugin that has the {spoken}, which the model was trained with",
                got="none",
                where="plugins",
                repair="plugins=[<its module>]",
            )
        if name not in found:
            raise ArtifactMissingError(
                f"the {spoken} {fingerprint} that the model was trained with",
                got="none",
                where=root,
                repair="set paths.store to the folder that has it",
            )
        if found[name] != fingerprint:
            raise ArtifactError(
                f"the {spoken} {fingerprint} that the model was trained with",
                got=found[name],
                where=root,
                repair="evaluate a run trained with it, or train again",
            )
    known = {name: part for name, part in tokenizers.items() if f"{name}_tokenizer" in expected}
    return TokenizerSet(**known), root  # what was fitted since is unknown to the model
