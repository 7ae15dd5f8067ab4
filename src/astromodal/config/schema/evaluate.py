"""The section ``evaluate``: what a model is asked, and how its answers are judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import List, Optional

from ..ranges import ranged


class EvaluateInput(str, Enum):
    """What ``evaluate.py`` reads."""

    auto = "auto"  # the token files of paths.store where there are any, else the datacubes
    tokens = "tokens"
    datacubes = "datacubes"  # encoded with the run's tokenizers, one field at a time, and not kept


class Calibrate(str, Enum):
    """Which of the corrections beside the weights ``evaluate.py`` applies (``evaluation/recalibration.py``)."""

    off = "off"
    temperature = "temperature"  # to the posterior, and so to all that is made of it
    conformal = "conformal"  # to the posterior, and then to its quantiles


class CalibrateOn(str, Enum):
    """What calibrations are fitted on."""

    validation = "validation"  # validation objects of the model's own run; saved beside the weights
    judged = "judged"  # half of the judged objects, whatever sky they are from; saved in the judgement's folder only


class Baseline(str, Enum):
    """What a model is judged against, on the same objects and inputs; it has to beat the best of them."""

    marginal = "marginal"  # the distribution of the training objects that have something given
    boosting = "boosting"  # scikit-learn's gradient boosting: the mean, and each quantile
    boosting_colours = "boosting_colours"  # the same, also from differences of given columns of one unit
    neighbours = "neighbours"  # of the inputs
    network = "network"  # a small one with piecewise-linear encodings, trained in place; sees colours, too
    tabicl = "tabicl"  # pretrained, in context; only where its package and weights are on this machine


@dataclass
class JudgeConfig:
    """How a catalogue of predictions is compared with what was observed."""

    baselines: Optional[List[Baseline]] = None  # null: all that can be had here (minutes of CPU per column); [] none
    max_training_rows: int = 20_000  # that a baseline learns a column from
    n_resamples: int = 500  # of the bootstrap by object
    n_bins: int = 6  # of magnitude and of signal-to-noise
    magnitude: Optional[str] = None  # column that errors are shown by; null: the first magnitude in r, else the first
    redshifts: List[str] = field(default_factory=lambda: ["specz_z", "photz_z", "redshift"])  # with photo-z figures
    calibrate: bool = True  # fit a temperature and conformal shifts, show their effect, save them
    calibrate_on: CalibrateOn = CalibrateOn.validation  # validation (saved beside the weights), judged
    max_calibration_rows: int = 10_000  # posteriors that a temperature is fitted to
    max_examples: int = 3000  # objects of each column that are drawn


@dataclass
class EvaluateConfig:
    """``evaluate.py``. Names are modalities (scalar, spectrum, image), groups of spectra, or columns."""

    run: str = "auto"  # run directory of train_lm.py, or a file of weights; auto: the newest finished run
    input: EvaluateInput = EvaluateInput.auto
    splits: Optional[List[str]] = None  # train, val, test; null: every object
    fraction: float = 1.0  # of these objects, chosen by a hash of their id
    given: Optional[List[str]] = None  # null: all else that the object has; [before]: what stands before; []: nothing
    predict: Optional[List[str]] = None  # null: every scalar column
    any_order: bool = False  # ask a model trained with sequence.order=fixed also against its order
    quantiles: List[float] = field(default_factory=lambda: [0.025, 0.16, 0.84, 0.975])
    posterior: bool = False  # the whole binned posterior of every asked column
    n_samples: int = ranged(16, least=1)  # per object, of an asked spectrum or cutout
    temperature: float = ranged(1.0, above=0)  # of the samples; below 1: nearer to the likeliest code
    # samples are drawn from the likeliest codes that together have this probability
    top_p: float = ranged(1.0, above=0, most=1)
    embeddings: List[str] = field(default_factory=list)  # mean, last: hidden states of what is given
    familiarity: bool = False  # how surprising what is given is to the model, against validation objects of its run
    unfamiliar_above: float = 99.0  # flagged: per cent of the validation objects that lie nearer to the middle
    calibration: Calibrate = Calibrate.off  # correct the posteriors by what calibration_file holds
    calibration_file: Optional[str] = None  # null: calibration.json beside the weights
    batch_size: int = ranged(64, least=1)  # sequences at once
    by_field: bool = False  # a part file per field, which the same command goes on with; always, under srun or torchrun
    judge: Optional[JudgeConfig] = field(default_factory=JudgeConfig)  # null: do not compare with what was observed
