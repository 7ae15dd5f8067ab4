"""Which ``loss.sample_k`` is enough? Compares gradients of sampled positions with the exact one, on a trained run.

Nothing is trained and nothing in the run's directory is touched but ``sample_k_study/``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError, ArtifactMissingError, ConfigError
from ...files.io import read_json
from ...runs.run import RunContext

if TYPE_CHECKING:
    import torch

    from ...config.schema import Config
    from ..run import LanguageModelRun

NAME = "sample_k_study"
CHECKPOINTS = {"best": "checkpoints/best.pt", "last": "checkpoints/last.pt"}
CURVE_POINTS = 60  # of the predicted curves
LOOK_AHEAD = 50  # steps that are looked at for each one that is asked for, to find every modality


class Reader(RunContext):
    """A run of train_lm that is read and not gone on with; what is written beside it goes to ``scratch``."""

    def __init__(self, run_dir: Path, scratch: Path) -> None:
        self._written = read_json(run_dir / "run.json")
        super().__init__({"run_id": str(self._written.get("run_id")), "run_dir": str(scratch)}, "train_lm")

    def add_input(self, name: str, fingerprint: str) -> None:
        """Check what is read against what the run was trained on.

        Raises:
            ArtifactError: a tokenizer was fitted anew since, so that codes mean something else.
        """
        expected = self._written.get("inputs", {}).get(name)
        if expected in (None, fingerprint):
            return
        if name == "sequences":
            self.log.warning("the sequences are not those that the run was trained on; its weights are studied on them")
            return
        raise ArtifactError(
            f"the {name} of the run, {expected}",
            got=fingerprint,
            where=f"run {self.id}",
            repair="study a run that was trained with what there is now",
        )

    def progress(self, total: int | None, desc: str, **_: Any) -> Any:
        """A bar on a terminal, plain lines otherwise."""
        from ...runs.progress import Progress

        return Progress(total, desc, self.log)


def read_config(run_dir: Path) -> Config:
    """The configuration of a run of train_lm, with the paths as they are seen from here.

    Raises:
        ArtifactMissingError: not such a run directory.
    """
    from omegaconf import OmegaConf

    from ...config.reading.containers import to_object
    from ...config.reading.yaml_files import load_run_config
    from ...config.schema import Config

    for name in ("run.json", "config.yaml"):
        if not (run_dir / name).is_file():
            raise ArtifactMissingError(
                "a run directory of train_lm.py",
                got=f"no {name}",
                where=run_dir,
                repair="runs/train_lm/<name>/<run_id>",
            )
    loaded = load_run_config(run_dir / "config.yaml")
    if loaded.get("stage") != "train_lm":
        raise ConfigError("a run of train_lm", got=f"one of {loaded.get('stage')}", where=run_dir)
    config = to_object(OmegaConf.merge(OmegaConf.structured(Config), loaded), Config)
    store = Path(config.paths.store)
    places = (Path.cwd(), *run_dir.resolve().parents)  # relative to where the run was started
    config.paths.store = str(next((p / store for p in places if (p / store).is_dir()), store))
    config.training.num_workers = 0
    return config


def load_weights(experiment: LanguageModelRun, path: Path) -> None:
    """The weights of a checkpoint or a weights file, and the weights of the loss's terms where they were adapted.

    Raises:
        ArtifactMissingError, ArtifactError: there is none, or it is of another model.
    """
    from ...files.io import load_torch
    from ...training.checkpoints.checkpoint import load_model_state

    if not path.is_file():
        found = sorted(p.name for p in path.parent.glob("*.pt"))
        raise ArtifactMissingError(
            "a checkpoint",
            got=f"no such file, but {', '.join(found)}" if found else "none",
            where=path,
            repair="--checkpoint best, last or a file",
        )
    state = load_torch(path)
    model = state.get("model", state.get("model_state_dict")) if isinstance(state, dict) else None
    if not isinstance(model, dict):
        raise ArtifactError("a checkpoint or a file of weights", got="something else", where=path)
    load_model_state(experiment.objective.model, model, path)
    weights = experiment.objective.term_weights
    for name, values in (state.get("callbacks") or {}).items():
        if name.endswith("GradientLedger") and values.get("weights"):
            weights.copy_(weights.new_tensor(values["weights"]))


def training_groups(experiment: LanguageModelRun, device: torch.device, n_steps: int) -> list[list[dict[str, Any]]]:
    """The micro-batches of the first ``n_steps`` optimizer steps of the run, a list each.

    Batches hold sequences of similar length, so a few of them may lack a modality altogether: further steps of the
    first epoch, each with something that was missing, are added until there is every modality that the loss has.
    """
    from itertools import islice

    from ...training.feed import Feed
    from ...vocabulary.modalities import MODALITIES

    modality_of_type = experiment.vocab.modality_of_type()
    weights = experiment.objective.term_weights.tolist()
    missing = {m for m, weight in zip(MODALITIES, weights, strict=True) if weight > 0}
    chosen: list[list[dict[str, Any]]] = []
    feed = Feed(experiment.loader("train"), experiment.config.training.grad_accum_steps, device)
    for group in islice(feed.groups(), LOOK_AHEAD * n_steps):
        found = {modality_of_type[int(t)] for batch in group for t in batch["types"].unique()}
        if len(chosen) < n_steps or found & missing:
            chosen.append(group)
            missing -= found
        if len(chosen) >= n_steps and not missing:
            break
    return chosen


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return what is written."""
    import torch

    from ...training.utils import resolve_device
    from ..run import LanguageModelRun

    config = read_config(options.run_dir)
    try:
        device = resolve_device(options.device)
    except ConfigError as error:
        raise ConfigError(
            "a device of this machine", got=options.device, where="--device", repair="--device cpu"
        ) from error
    if config.hardware.n_threads is not None:
        torch.set_num_threads(config.hardware.n_threads)
    checkpoint = (
        options.run_dir / CHECKPOINTS[options.checkpoint]
        if options.checkpoint in CHECKPOINTS
        else Path(options.checkpoint)
    )
    with tempfile.TemporaryDirectory() as scratch:  # the vocabulary that a run writes down is known already
        experiment = LanguageModelRun(config, Reader(options.run_dir, Path(scratch)), {})
    load_weights(experiment, checkpoint)
    experiment.objective.to(device)
    return measure(options, experiment, device) | {
        "run": f"{config.name}/{experiment.run.id}",
        "checkpoint": f"{checkpoint.parent.name}/{checkpoint.name}",
        "loss_weights": experiment.objective.term_weights.tolist(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device} with {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }


def measure(options: argparse.Namespace, experiment: LanguageModelRun, device: torch.device) -> dict[str, Any]:
    """Gradients first, in the model's own precision; then costs, as the run's hardware settings have them."""
    import numpy as np

    from ...training.precision import MixedPrecision
    from ...training.utils import configure_cuda_performance
    from .cost import loss_costs
    from .gradients import SampleKStudy

    hardware, reader = experiment.config.hardware, experiment.run
    groups = training_groups(experiment, device, options.steps)
    gradients = SampleKStudy(experiment.objective, options.k, options.draws)
    ks = list(gradients.results)
    with reader.progress(len(groups) * len(ks) * options.draws, "gradients", unit="draw") as bar:
        gradients.run(groups, bar.update)
    if device.type == "cuda":
        configure_cuda_performance(hardware.tf32)
    precision = MixedPrecision.of(hardware, device)
    with reader.progress((options.rounds + 1) * (len(ks) + 1), "costs", unit="round") as bar:
        largest = max(groups, key=lambda group: sum(int(batch["attn_mask"].sum()) for batch in group))
        costs = loss_costs(
            experiment.objective,
            largest,
            [*ks, None],
            rounds=options.rounds,
            autocast=precision.autocast,
            progress=bar.update,
        )
    facts = gradients.facts()
    curve = np.geomspace(ks[0], max(ks[-1], *facts["positions"].values()), CURVE_POINTS).tolist()
    return {
        "rows": gradients.rows(),
        "facts": facts,
        "costs": {"all" if k is None else str(k): figures for k, figures in costs.items()},
        "precision_of_costs": precision.name,
        "theory": {"k": curve} | {part: [gradients.predicted(part, k) for k in curve] for part in facts["norm"]},
    }
