"""The families that a configuration chooses from by name: one table each, to which plugins add rows.

==============  ==========================================  ============================================================
``CODECS``      ``tokenizer.<modality>.codec``              class ``(config, array_shape)``; ``dims`` of its arrays
``QUANTIZERS``  ``tokenizer.<modality>.quantizer``          class ``(config, seed)``
``OPTIMIZERS``  ``optimizer.name``                          function ``(model, config, muon_precision)``
``FORMS``       ``loss.<modality>.form``                    readable function, and its ``slope`` or ``gradient``
``SOURCES``     ``data.layout``                             function of ``data.root``: the files of each field, or None
``RECIPES``     ``recipe``                                  module with ``run(config, run)``; the ``figure`` of a sweep
==============  ==========================================  ============================================================

What makes a row's thing is named as ``module:name`` and imported when it is used, so that the tables cost nothing. The
schema's sections and names are made from them; plugins add rows by :mod:`astromodal.config.growth`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from ..vocabulary.modalities import imported
from . import schema
from .schema import SCALAR_FORMS, WIDTH_FORMS


@dataclass(frozen=True)
class Entry:
    """One row: what a name stands for."""

    name: str
    place: str  # "module:name" of what makes it
    section: type | None = None  # dataclass of its options, where it has some of its own
    facts: Mapping[str, Any] = field(default_factory=dict)  # what its family asks of it

    def made(self) -> Any:
        """The class or function behind it."""
        return imported(self.place)

    def fact(self, name: str, default: Any = None) -> Any:
        """One of ``facts``; one that is a place is imported."""
        value = self.facts.get(name, default)
        return imported(value) if isinstance(value, str) and ":" in value else value


class Family(Mapping[str, Entry]):
    """Names and rows, in the order in which they were added."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._rows: dict[str, Entry] = {}

    def add(self, name: str, place: str, section: type | None = None, **facts: Any) -> None:
        """Add a row; the same one again is no change.

        Raises:
            ConfigError: the name is taken.
        """
        row = Entry(name, place, section, facts)
        if self._rows.setdefault(name, row) != row:
            raise ConfigError(f"a {self.kind} whose name no other has", got=name, where=place)

    def __getitem__(self, name: str) -> Entry:
        return self._rows[getattr(name, "value", name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def sections(self) -> dict[str, type]:
        """Names that stand for a section of their own, and its dataclass."""
        return {name: row.section for name, row in self._rows.items() if row.section is not None}


CODECS = Family("codec")
CODECS.add("autoencoder", "astromodal.codecs.autoencoder:Autoencoder", schema.AutoencoderConfig, dims=(2,))
CODECS.add(
    "masked_autoencoder",
    "astromodal.codecs.masked_autoencoder:MaskedAutoencoder",
    schema.MaskedAutoencoderConfig,
    dims=(1,),
)
CODECS.add("ternary_vae", "astromodal.codecs.ternary_vae:TernaryCodec", schema.TernaryCodecConfig, dims=(1, 2))
CODECS.add("vae", "astromodal.codecs.vae:VariationalCodec", schema.VAEConfig, dims=(1, 2))
CODECS.add("patches", "", schema.PatchesConfig, dims=())  # no network: the tokenizer of spectra makes them itself

QUANTIZERS = Family("quantizer")
QUANTIZERS.add("kmeans", "astromodal.quantizers.kmeans:KMeans", schema.KMeansConfig)
QUANTIZERS.add("residual_kmeans", "astromodal.quantizers.residual:ResidualKMeans", schema.ResidualKMeansConfig)
QUANTIZERS.add("fsq", "astromodal.quantizers.fsq:FSQ", schema.FSQConfig)
QUANTIZERS.add("quantile", "astromodal.quantizers.quantile:QuantileBinner")  # of scalars: not to be chosen

OPTIMIZERS = Family("optimizer")
for _name in schema.OptimizerName:
    OPTIMIZERS.add(_name.value, f"astromodal.optim.optimizers:{_name.value}")

FORMS = Family("form of the loss")
# how the fused loss has a form: its slope dS/dp, or the whole gradient; tensors that it reads of a codebook
_FUSED: dict[str, dict[str, Any]] = {
    "expectation": {},
    "expectation_spread": {"slope": "expectation_spread"},
    "energy": {"slope": "energy", "n_constants": 1},
    "crps": {"slope": "crps", "n_constants": 1},
    "wasserstein": {"slope": "wasserstein"},
    "hl_gauss": {"gradient": "hl_gauss", "n_constants": 3},
    "neighbour_ce": {"gradient": "neighbour_ce", "n_constants": 3},
}
for _form in schema.LossForm:
    _facts: dict[str, Any] = {
        k: f"astromodal.loss.fused.forms:{v}" if isinstance(v, str) else v for k, v in _FUSED[_form.value].items()
    }
    FORMS.add(
        _form.value,
        f"astromodal.loss.forms:{_form.value}",
        ordered=_form in SCALAR_FORMS,
        wide=_form in WIDTH_FORMS,
        **_facts,
    )

SOURCES = Family("arrangement of files")
for _layout in ("hats", "folders", "files"):  # in the order in which they are tried
    SOURCES.add(_layout, f"astromodal.data.sources.layouts:in_{_layout}")

RECIPES = Family("recipe")
# what a sweep compares runs by, lower is better: nats per held-out checklist; the test spectra are not for choosing;
# Spearman of valuation and radius, -1 at best (the loss contains its weights)
RECIPES.add("ebird_vae", "astromodal.recipes.ebird.experiment:run", schema.EbirdVAERecipeConfig, figure="nats")
RECIPES.add(
    "spectrum_mae", "astromodal.recipes.chemomae.experiment:run", schema.SpectrumMAERecipeConfig, figure="val_loss"
)
RECIPES.add(
    "ternary_vae", "astromodal.recipes.ternary.experiment:run", schema.TernaryVAERecipeConfig, figure="hierarchy"
)

SECTIONS = {"codec": CODECS, "quantizer": QUANTIZERS, "recipe": RECIPES}  # keys where one of several sections may stand
