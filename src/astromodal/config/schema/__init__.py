"""Every configuration key of the program: its type, its default and what it means.

These dataclasses are the schema that Hydra checks values against (``conf/`` holds the named options).
They import nothing heavy, so that ``--help`` and configuration errors stay fast. ``None`` means "off"
or "decide for me", as the comment says; counts begin with ``n_``, periods end with ``_every``.

==============  =====================================================================================
``root``        ``Config``, the whole; ``STAGE_GROUPS``, which stage reads which section
``run``         ``hardware``, ``paths``, ``tracking``, ``sweep``, ``encode``
``data``        ``data``: columns, spectra, cutouts, splits, the synthetic sky
``codecs``      ``tokenizer.<modality>.codec``
``tokenizer``   ``tokenizer``, and ``tokenizer.<modality>.quantizer``
``recipes``     ``recipe``: a codec on its home problem
``model``       ``vocab``, ``sequence``, ``model``
``loss``        ``loss``
``training``    ``optimizer``, ``schedule``, ``training``
``evaluate``    ``evaluate``
``cubes``       ``cubes``: catalogues, images and spectra that datacubes are made of
==============  =====================================================================================

The choices of a key (``Enum``) stand in the module of the section that first reads them. OmegaConf resolves the
types of a dataclass in its own module: import them there at run time, not under ``TYPE_CHECKING``.
"""

from .codecs import (
    AutoencoderConfig,
    CodecTrainingConfig,
    Corruption,
    Likelihood,
    MaskedAutoencoderConfig,
    PatchesConfig,
    TernaryCodecConfig,
    VAEConfig,
)
from .cubes import (
    Ambiguous,
    BandSourceConfig,
    CatalogueConfig,
    CubesConfig,
    FieldsConfig,
    ImageSourceConfig,
    MatchedConfig,
    Medium,
    SpectraFormat,
    SpectraSourceConfig,
)
from .data import (
    BandConfig,
    DataConfig,
    ImageConfig,
    Layout,
    ScalarConfig,
    SpectrumGroupConfig,
    SpectrumKind,
    SplitConfig,
    SplitMethod,
    SyntheticConfig,
    Transform,
)
from .evaluate import Baseline, Calibrate, CalibrateOn, EvaluateConfig, EvaluateInput, JudgeConfig
from .loss import (
    SCALAR_FORMS,
    WIDTH_FORMS,
    Balance,
    CEBalance,
    CEMode,
    ErrorUse,
    LossConfig,
    LossForm,
    LossFormConfig,
)
from .model import (
    Missing,
    ModelConfig,
    Order,
    QuestionConfig,
    SequenceConfig,
    ValueFeatures,
    ValuesConfig,
    VocabConfig,
)
from .recipes import (
    CurriculumConfig,
    EbirdVAERecipeConfig,
    HomeostasisConfig,
    MadeUpChecklistsConfig,
    SpectrumMAERecipeConfig,
    TernaryGeometryConfig,
    TernaryLossSettings,
    TernaryLossWeights,
    TernaryNetworkConfig,
    TernaryOptimizerConfig,
    TernaryVAERecipeConfig,
)
from .root import STAGE_GROUPS, Config, ObjectiveFigure
from .run import (
    Backend,
    EncodeConfig,
    HardwareConfig,
    Parallel,
    PathsConfig,
    Precision,
    SweepConfig,
    TrackingConfig,
    WandbMode,
    WorkersConfig,
)
from .tokenizer import (
    FSQConfig,
    ImageTokenizerConfig,
    KMeansConfig,
    ResidualKMeansConfig,
    ScalarTokenizerConfig,
    SpectrumTokenizerConfig,
    TokenizerConfig,
)
from .training import (
    MonitorMode,
    OnNonfinite,
    OptimizerConfig,
    OptimizerName,
    ScheduleConfig,
    ScheduleName,
    TrainingConfig,
)

__all__ = [
    "Ambiguous",
    "AutoencoderConfig",
    "Backend",
    "Balance",
    "BandConfig",
    "BandSourceConfig",
    "Baseline",
    "CEBalance",
    "CEMode",
    "Calibrate",
    "CalibrateOn",
    "CatalogueConfig",
    "CodecTrainingConfig",
    "Config",
    "Corruption",
    "CubesConfig",
    "CurriculumConfig",
    "DataConfig",
    "EbirdVAERecipeConfig",
    "EncodeConfig",
    "ErrorUse",
    "EvaluateConfig",
    "EvaluateInput",
    "FSQConfig",
    "FieldsConfig",
    "HardwareConfig",
    "HomeostasisConfig",
    "ImageConfig",
    "ImageSourceConfig",
    "ImageTokenizerConfig",
    "JudgeConfig",
    "KMeansConfig",
    "Layout",
    "Likelihood",
    "LossConfig",
    "LossForm",
    "LossFormConfig",
    "MadeUpChecklistsConfig",
    "MaskedAutoencoderConfig",
    "MatchedConfig",
    "Medium",
    "Missing",
    "ModelConfig",
    "MonitorMode",
    "ObjectiveFigure",
    "OnNonfinite",
    "OptimizerConfig",
    "OptimizerName",
    "Order",
    "Parallel",
    "PatchesConfig",
    "PathsConfig",
    "Precision",
    "QuestionConfig",
    "ResidualKMeansConfig",
    "SCALAR_FORMS",
    "STAGE_GROUPS",
    "ScalarConfig",
    "ScalarTokenizerConfig",
    "ScheduleConfig",
    "ScheduleName",
    "SequenceConfig",
    "SpectraFormat",
    "SpectraSourceConfig",
    "SpectrumGroupConfig",
    "SpectrumKind",
    "SpectrumMAERecipeConfig",
    "SpectrumTokenizerConfig",
    "SplitConfig",
    "SplitMethod",
    "SweepConfig",
    "SyntheticConfig",
    "TernaryCodecConfig",
    "TernaryGeometryConfig",
    "TernaryLossSettings",
    "TernaryLossWeights",
    "TernaryNetworkConfig",
    "TernaryOptimizerConfig",
    "TernaryVAERecipeConfig",
    "TokenizerConfig",
    "TrackingConfig",
    "TrainingConfig",
    "Transform",
    "VAEConfig",
    "ValueFeatures",
    "ValuesConfig",
    "VocabConfig",
    "WIDTH_FORMS",
    "WandbMode",
    "WorkersConfig",
]
