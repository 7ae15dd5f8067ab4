"""The whole configuration: every section, and which stage reads which."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, List, Optional

from ..ranges import ranged
from .cubes import CubesConfig
from .data import DataConfig
from .evaluate import EvaluateConfig
from .loss import LossConfig
from .model import ModelConfig, SequenceConfig, VocabConfig
from .run import MISSING, EncodeConfig, HardwareConfig, PathsConfig, SweepConfig, TrackingConfig
from .tokenizer import TokenizerConfig
from .training import OptimizerConfig, ScheduleConfig, TrainingConfig


class ObjectiveFigure(str, Enum):
    """What ``train_lm.py`` returns to a sweep, of the best weights on validation objects; lower is better."""

    score = "score"  # val/score: error / variance in codebook space, mean over the modalities
    prediction = "prediction"  # prediction/score: CRPS / CRPS of the marginal of what ``evaluate`` asks


@dataclass
class Config:
    """The whole configuration, shared by the stages; ``STAGE_GROUPS`` says which stage reads what."""

    stage: str = MISSING  # set by the script
    name: str = "default"  # of the run: runs/<stage>/<name>/<run_id>
    run_id: str = MISSING  # ASTROMODAL_RUN_ID, WANDB_RUN_ID, torchrun's, or the time
    run_dir: str = MISSING  # where the run writes
    seed: int = ranged(0, least=0)  # of everything random in the run
    tokenizer_id: str = MISSING  # folder of the tokenizers and tokens in artifacts/<data.name>/
    resume: Optional[str] = None  # auto (newest unfinished run with this configuration), a run directory, a checkpoint
    init_from: Optional[str] = None  # weights to start a new run from; of other columns, too
    objective: ObjectiveFigure = (
        ObjectiveFigure.score
    )  # of a sweep; prediction: answers evaluate.given, evaluate.predict
    plugins: List[str] = field(default_factory=list)  # modules to import first: they add modalities and their keys
    preview: bool = False  # train_lm.py: say what it would cost, and stop
    sweep: SweepConfig = field(default_factory=SweepConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cubes: CubesConfig = field(default_factory=CubesConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    recipe: Any = None  # train_tokenizers.py: a codec on its home problem, instead of the tokenizers
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    vocab: VocabConfig = field(default_factory=VocabConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


_SHARED = (
    "stage",
    "name",
    "run_id",
    "run_dir",
    "seed",
    "tokenizer_id",
    "paths",
    "data",
    "hardware",
    "tracking",
    "sweep",
    "plugins",
)
STAGE_GROUPS: dict[str, tuple[str, ...]] = {
    "build_datacubes": (*_SHARED, "cubes"),
    "train_tokenizers": (*_SHARED, "tokenizer", "recipe"),
    "encode": (*_SHARED, "encode"),
    "train_lm": (
        *_SHARED,
        "resume",
        "init_from",
        "preview",
        "objective",
        "evaluate",
        "vocab",
        "sequence",
        "model",
        "loss",
        "optimizer",
        "schedule",
        "training",
    ),
    "evaluate": (*_SHARED, "evaluate"),
}
