"""The section ``loss``: cross-entropy, and the form of each modality's reconstruction term."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Optional

from ..ranges import ranged


class CEMode(str, Enum):
    """Vocabulary over which the cross-entropy is taken."""

    full = "full"
    block = "block"


class CEBalance(str, Enum):
    """Whether every token, or every modality, weighs the same in the cross-entropy."""

    token = "token"
    modality = "modality"


class Balance(str, Enum):
    """Whether every position, or every object, weighs the same in a mean over positions."""

    position = "position"
    object = "object"  # an object's positions share its weight: one asked redshift counts as much as a whole spectrum


class LossForm(str, Enum):
    """Form of a reconstruction term; ``training/forms.py`` has formulas, papers and minimisers."""

    expectation = "expectation"  # squared error of the mean: the default
    expectation_spread = "expectation_spread"  # that + beta * variance
    energy = "energy"  # energy score: proper
    crps = "crps"  # scalars: proper
    wasserstein = "wasserstein"  # scalars: W1 to the true entry
    hl_gauss = "hl_gauss"  # scalars: cross-entropy to a Gaussian around the true bin
    neighbour_ce = "neighbour_ce"  # cross-entropy to soft targets over the nearby codes


class ErrorUse(str, Enum):
    """What a reconstruction term does with the error of its target, where one is known."""

    ignore = "ignore"
    weight = "weight"  # positions weigh 1 / (1 + sigma^2): noisy targets pull less
    width = "width"  # soft targets are widened by sigma


SCALAR_FORMS = (LossForm.crps, LossForm.wasserstein, LossForm.hl_gauss)  # need entries in an order


WIDTH_FORMS = (LossForm.hl_gauss, LossForm.neighbour_ce)  # have targets that errors can widen


@dataclass
class LossFormConfig:
    """Form of one modality's reconstruction term, and the numbers that some of the forms read."""

    form: LossForm = LossForm.expectation
    beta: float = ranged(1.0, least=0)  # expectation_spread: weight of the variance; 1: expected squared distance
    sigma_bins: float = ranged(0.75, above=0)  # hl_gauss: sigma of the target, in widths of the true bin
    n_neighbours: int = ranged(16, least=1)  # neighbour_ce: codes that share a target, the true one included
    temperature: float = ranged(
        1.0, above=0
    )  # neighbour_ce: sigma of the target, in median distances between nearest codes
    errors: ErrorUse = ErrorUse.ignore  # scalars and spectra: errors of the targets, in the weight or in the width


@dataclass
class LossConfig:
    """Cross-entropy plus the reconstruction loss (predicted entries against the true entry, standardised)."""

    use_ce: bool = True
    ce: CEMode = CEMode.full
    ce_balance: CEBalance = CEBalance.token
    balance: Balance = Balance.position  # of all terms
    enabled: bool = True  # reconstruction terms
    sample_k: Optional[int] = ranged(4096, least=0)  # positions per modality and step; null: all
    ce_sample_k: Optional[int] = None  # positions of the cross-entropy per step; null: all
    weight_image: float = ranged(0.1, least=0)
    weight_scalar: float = ranged(0.1, least=0)
    weight_spectrum: float = ranged(0.1, least=0)
    share_image: Optional[float] = None  # of the gradient, beside cross-entropy; its weight adapts; null: weight_image
    share_scalar: Optional[float] = None
    share_spectrum: Optional[float] = None
    share_rate: float = ranged(0.3, above=0)  # of the way to the weight that gives the share, per measurement
    ledger_every: Optional[int] = ranged(100, least=1)  # steps between measurements of the gradient's shares; null: off
    standardize: bool = True  # codebooks to zero mean and unit total variance
    image: LossFormConfig = field(default_factory=LossFormConfig)
    scalar: LossFormConfig = field(default_factory=LossFormConfig)
    spectrum: LossFormConfig = field(default_factory=LossFormConfig)
