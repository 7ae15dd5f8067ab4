"""The sections ``vocab``, ``sequence`` and ``model``: from tokens to the transformer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import List, Optional

from ..ranges import ranged


class Missing(str, Enum):
    """How a modality that an object lacks appears in its sequence."""

    absent = "absent"
    token = "token"


class Order(str, Enum):
    """Order of the parts of a sequence."""

    fixed = "fixed"  # as listed in sequence.modalities
    random = "random"  # drawn anew per object and epoch; needs next_types
    ask = "ask"  # what is given, then what is asked, drawn anew per object and epoch; needs next_types


@dataclass
class QuestionConfig:
    """A question that has a share of the sequences of ``order: ask``; names as in ``evaluate``."""

    predict: List[str] = field(default_factory=list)  # modalities, groups of spectra, columns
    given: Optional[List[str]] = None  # null: everything else
    share: float = 0.0  # of the sequences; the rest are drawn


@dataclass
class VocabConfig:
    """Sizes of the vocabulary's blocks; null takes the size from the tokenizer."""

    image: Optional[int] = None
    scalar: Optional[int] = None
    spectrum: Optional[int] = None


@dataclass
class SequenceConfig:
    """From tokens to sequences."""

    modalities: List[str] = field(default_factory=lambda: ["scalar", "spectrum", "image"])
    order: Order = Order.fixed
    missing: Missing = Missing.absent
    next_types: bool = True  # tell a position the type of the token it has to predict
    questions: List[QuestionConfig] = field(default_factory=list)  # order=ask: named questions, each with a share
    # standard errors by which shown scalars are redrawn in every epoch; 0: shown as observed
    redraw: float = ranged(0.0, least=0)


class ValueFeatures(str, Enum):
    """Features of a scalar bin's centre, of which its embedding is a linear map."""

    piecewise = "piecewise"  # linear between quantiles
    periodic = "periodic"  # the centre, and sines and cosines of it


@dataclass
class ValuesConfig:
    """What the model is told of the values that tokens stand for; ``models/values.py``."""

    head: bool = False  # in the output head as well
    scalar: ValueFeatures = ValueFeatures.piecewise
    n_features: int = ranged(16, least=1)  # of a scalar
    errors: bool = False  # the standard error of each observation is an input, too


@dataclass
class ModelConfig:
    """The causal transformer."""

    d_model: int = ranged(768, least=1)
    n_layers: int = ranged(12, least=1)
    n_heads: int = ranged(12, least=1)
    d_ff: int = ranged(3072, least=1)
    dropout: float = ranged(0.1, least=0, below=1)
    max_len: int = ranged(2048, least=2)
    tie_head: bool = True  # head shares the token embedding
    values: Optional[ValuesConfig] = None  # null: tokens are names
    activation_checkpointing: bool = False  # blocks are computed again in the backward pass: less memory, more time
