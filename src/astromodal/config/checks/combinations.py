"""Values that cannot work together, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...vocabulary.modalities import MODALITIES
from ..reading.key_names import nearest
from ..schema import Backend, OptimizerName
from .bounds import value_of
from .levels import check_image_levels, check_patch_levels
from .loss_choices import check_form, check_shares, check_width
from .packages import require_package

if TYPE_CHECKING:
    from omegaconf import DictConfig

_NOT_EMPTY = ("data.fields", "tokenizer.spectrum.groups", "evaluate.splits")  # null means all, so none is a slip


def check_combinations(cfg: DictConfig, stage: str, overrides: Sequence[str] = ()) -> None:
    """Refuse what ``stage`` could not run with, though each value alone is fine.

    Args:
        overrides: of the command line.

    Raises:
        ConfigError: naming a key of the combination.
    """
    _check_data(cfg)
    if cfg.tracking.tensorboard:
        require_package("tensorboard", "tracking.tensorboard=true", "tracking.tensorboard=false")
    _check_workers(cfg.hardware.workers)
    if stage == "build_datacubes":
        _check_cubes(cfg)
    elif stage == "train_tokenizers":
        _check_tokenizer(cfg, overrides)
    elif stage == "train_lm":
        if cfg.optimizer.name == OptimizerName.riemannian_adam:
            require_package("geoopt", "optimizer=riemannian_adam", "optimizer=adamw")
        check_model(cfg.model)
        check_loss(cfg.loss)
        check_sequence(cfg.sequence)
        _check_objective(cfg)
    elif stage == "evaluate":
        check_evaluate(cfg.evaluate)


def _check_workers(workers: Any) -> None:
    if workers.backend == Backend.loky and workers.address is not None:
        raise ConfigError(
            "no address for processes of this machine",
            got=workers.address,
            where="hardware.workers.address",
            repair="hardware.workers.backend=dask (or ray)",
        )
    package = {Backend.dask: "distributed", Backend.ray: "ray"}.get(workers.backend)
    if package is not None:
        require_package(package, f"hardware.workers.backend={workers.backend.value}", "hardware.workers.backend=loky")


def check_splits(splits: Any) -> None:
    """Refuse fractions that leave nothing to train on. ``splits``: the section ``data.splits``, or a node like it."""
    held_out = splits.val_fraction + splits.test_fraction
    if held_out >= 1:
        raise ConfigError("val_fraction + test_fraction < 1", got=held_out, where="data.splits")


def _check_data(cfg: DictConfig) -> None:
    check_splits(cfg.data.splits)
    if not cfg.data.scalars and not cfg.data.spectra and cfg.data.images is None:
        repair = "data=splus, another of conf/data, or data=synthetic"
        raise ConfigError("data.scalars, data.spectra or data.images", got="none of them", where="data", repair=repair)
    for key in _NOT_EMPTY:
        value = value_of(cfg, key)
        if value is not None and not len(value):
            raise ConfigError("at least one entry, or null for all", got="none", where=key, repair=f"{key}=null")
    if cfg.data.images is not None and cfg.data.images.size % 4:
        raise ConfigError("a cutout size divisible by 4", got=cfg.data.images.size, where="data.images.size")


def _check_cubes(cfg: DictConfig) -> None:
    require_package("astropy", "build_datacubes.py", "install everything with pip install -e .")
    if cfg.data.synthetic is not None:
        raise ConfigError(
            "a survey of your own: data=splus, or conf/data/mine.yaml",
            got="the synthetic sky",
            where="data",
            repair="data=splus data.root=<folder for the datacubes>",
        )
    fields = cfg.cubes.fields
    if fields.healpix_order is not None:
        require_package(
            "astropy_healpix",
            f"cubes.fields.healpix_order={fields.healpix_order}",
            "cubes.fields.healpix_order=null and cubes.fields.column=<a column>",
        )
        if fields.column is not None:
            raise ConfigError(
                "cubes.fields.column or cubes.fields.healpix_order",
                got="both",
                where="cubes.fields",
                repair="set one of them to null",
            )
        if fields.healpix_order > 12:
            raise ConfigError(
                "cubes.fields.healpix_order <= 12, tiles of 0.7 arcmin",
                got=fields.healpix_order,
                where="cubes.fields.healpix_order",
            )


def check_model(model: Any) -> None:
    """Refuse sizes that do not fit each other. ``model``: the section ``model``, or a node like it."""
    width, heads = model.d_model, model.n_heads
    if width % heads:
        close = min((n for n in range(1, 65) if width % n == 0), key=lambda n: abs(n - heads))
        expected = f"model.n_heads that divides model.d_model={width}"
        raise ConfigError(expected, got=heads, where="model", repair=f"model.n_heads={close}")


def check_loss(loss: Any) -> None:
    """Refuse terms that cannot be had, or none. ``loss``: the section ``loss``, or a node like it."""
    if not loss.use_ce and not loss.enabled:
        raise ConfigError("loss.use_ce or loss.enabled", got="neither", where="loss", repair="loss=combined")
    check_shares(loss)
    for modality in MODALITIES.in_sequence():
        check_form(modality, getattr(loss, modality))
        check_width(modality, getattr(loss, modality), loss.standardize)


def check_sequence(sequence: Any) -> None:
    """Refuse parts and orders that do not go together. ``sequence``: the section ``sequence``, or a node like it."""
    order = sequence.order.value
    if order != "fixed" and not sequence.next_types:
        expected = f"sequence.next_types=true with sequence.order={order}, or a position cannot know what to predict"
        raise ConfigError(expected, got="false", where="sequence", repair="sequence.next_types=true")
    if sequence.questions and order != "ask":
        raise ConfigError(
            "sequence.order=ask with sequence.questions", got=order, where="sequence", repair="sequence=ask"
        )
    modalities = list(sequence.modalities)
    for name in modalities:
        if name not in MODALITIES:
            known = MODALITIES.in_sequence()
            expected, repair = f"modalities among {', '.join(known)}", nearest(name, list(known))
            raise ConfigError(expected, got=name, where="sequence.modalities", repair=repair)
    if not modalities or len(set(modalities)) != len(modalities):
        raise ConfigError("each modality once, and at least one", got=modalities, where="sequence.modalities")


def _check_objective(cfg: DictConfig) -> None:
    if cfg.objective.value != "prediction":
        return
    check_evaluate(cfg.evaluate)
    for key, only, why in (
        ("run", "auto", "the model is the one that is trained"),
        ("splits", None, "it is val"),
        ("calibration", "off", "new weights have none"),
    ):
        if cfg.evaluate[key] != only:
            raise ConfigError(
                f"no evaluate.{key} with objective=prediction: {why}",
                got=cfg.evaluate[key],
                where=f"evaluate.{key}",
                repair="drop it",
            )


def check_evaluate(evaluate: Any) -> None:
    """Refuse what cannot be asked. ``evaluate``: the section ``evaluate``, or a node like it."""
    for name, known in (("splits", ("train", "val", "test")), ("embeddings", ("mean", "last"))):
        for value in getattr(evaluate, name) or ():
            if value not in known:
                raise ConfigError(
                    f"evaluate.{name} among {', '.join(known)}",
                    got=value,
                    where="evaluate",
                    repair=nearest(value, list(known)),
                )
    if not 0 < evaluate.fraction <= 1:
        raise ConfigError("0 < evaluate.fraction <= 1", got=evaluate.fraction, where="evaluate.fraction")
    if not 0 < evaluate.unfamiliar_above <= 100:
        raise ConfigError(
            "0 < evaluate.unfamiliar_above <= 100, a percentile",
            got=evaluate.unfamiliar_above,
            where="evaluate.unfamiliar_above",
        )
    quantiles = list(evaluate.quantiles)
    if not all(0 < q < 1 for q in quantiles) or len({*quantiles}) < len(quantiles):
        raise ConfigError("different quantiles between 0 and 1", got=quantiles, where="evaluate.quantiles")
    if evaluate.predict is not None and not (evaluate.predict or evaluate.embeddings):
        raise ConfigError("something to predict, or evaluate.embeddings=[mean]", got="neither", where="evaluate")


def _check_tokenizer(cfg: DictConfig, overrides: Sequence[str]) -> None:
    for part in ("spectrum", "image"):
        for kind in ("codec", "quantizer"):
            settings = value_of(cfg, f"tokenizer.{part}.{kind}")
            if isinstance(settings, (bool, int, float, str)):
                raise ConfigError(
                    f"settings of a {kind}",
                    got=settings,
                    where=f"tokenizer.{part}.{kind}",
                    repair=f"tokenizer/{part}/{kind}=<option>",
                )
            if settings is not None and "name" not in settings:  # an experiment's, whose tokenizer was not chosen
                repair = f"take tokenizer=all, or tokenizer.{part}=null"
                raise ConfigError(f"an option of tokenizer/{part}/{kind}", got="settings of none", repair=repair)
    check_image_levels(
        value_of(cfg, "tokenizer.image.quantizer.levels"), value_of(cfg, "tokenizer.image.codec.latent_channels")
    )
    spectrum = cfg.tokenizer.spectrum
    if spectrum is None:
        return
    groups = list(spectrum.groups or (name for name, group in cfg.data.spectra.items() if group.tokenize))
    # An option may have sizes for groups of another survey: those bind nobody. What is typed has to exist.
    typed = [group for group in spectrum.patch_sizes if any("patch_sizes" in o and str(group) in o for o in overrides)]
    for group in (*groups, *typed):
        if cfg.data.spectra and group not in cfg.data.spectra:
            expected, near = f"groups among {', '.join(cfg.data.spectra)}", nearest(group, list(cfg.data.spectra))
            raise ConfigError(
                expected,
                got=group,
                where="tokenizer.spectrum",
                repair=near or "tokenizer.spectrum.groups=null takes all",
            )
    for group, size in spectrum.patch_sizes.items():
        if size < 1:
            raise ConfigError("patch sizes >= 1", got=size, where=f"tokenizer.spectrum.patch_sizes.{group}")
    codec = value_of(cfg, "tokenizer.spectrum.codec")
    if codec is None or codec.get("name") == "patches":
        patch_sizes = {group: spectrum.patch_sizes.get(group, spectrum.patch_size) for group in groups}
        levels = value_of(cfg, "tokenizer.spectrum.quantizer.levels")
        check_patch_levels(levels, patch_sizes, spectrum.precision_weight)
