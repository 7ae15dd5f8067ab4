"""Settings of the loss that cannot work together: also asked by the classes that take them from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...vocabulary.modalities import MODALITIES, Kind
from ..families import FORMS
from ..ranges import check_ranges
from ..schema import ErrorUse, LossFormConfig

if TYPE_CHECKING:
    from ..schema import LossFormConfig


def check_shares(loss: Any) -> None:
    """Refuse target shares of the gradient that cannot be held.

    Raises:
        ConfigError: naming the key.
    """
    for modality in MODALITIES.in_sequence():
        key, share = f"loss.share_{modality}", getattr(loss, f"share_{modality}")
        if share is None:
            continue
        if not loss.enabled:
            raise ConfigError(
                "loss.enabled=true, the term that would have the share", got="false", where=key, repair="loss=combined"
            )
        if not 0 < share < 1:
            raise ConfigError("a share between 0 and 1, or null", got=share, where=key)
        if not loss.use_ce:
            raise ConfigError(
                "loss.use_ce=true, whose gradient is shared with",
                got="false",
                where=key,
                repair=f"use loss.weight_{modality}",
            )
        if loss.ledger_every is None:
            raise ConfigError(
                "loss.ledger_every, which measures the shares", got="null", where=key, repair="loss.ledger_every=100"
            )


def check_width(modality: str, form: LossFormConfig, standardize: bool) -> None:
    """Refuse targets as wide as their errors where entries are not in the errors' unit.

    Raises:
        ConfigError: naming the key.
    """
    if form.errors == ErrorUse.width and not standardize:
        raise ConfigError(
            "loss.standardize=true, the unit of the errors",
            got="false",
            where=f"loss.{modality}.errors=width",
            repair="errors=weight",
        )


def check_form(modality: str, form: LossFormConfig) -> None:
    """Refuse a form that ``modality`` cannot have, and numbers that no form can use.

    Args:
        form: a :class:`LossFormConfig`, or a node like it.

    Raises:
        ConfigError: naming the key.
    """
    ordered = MODALITIES[modality].kind is Kind.values
    if FORMS[form.form].fact("ordered") and not ordered:
        usable = [name for name, row in FORMS.items() if not row.fact("ordered")]
        raise ConfigError(
            f"one of {', '.join(usable)}",
            got=f"{form.form.value}, which needs entries in an order",
            where=f"loss.{modality}.form",
            repair=f"loss.{modality}.form=energy",
        )
    key = f"loss.{modality}.errors"
    if form.errors != ErrorUse.ignore and not MODALITIES[modality].has_errors:
        raise ConfigError(
            f"{key}=ignore",
            got=f"{form.errors.value}, but {modality}s have no errors",
            where=key,
            repair=f"{key}=ignore",
        )
    if form.errors == ErrorUse.width and not FORMS[form.form].fact("wide"):
        usable = [name for name, row in FORMS.items() if row.fact("wide") and (ordered or not row.fact("ordered"))]
        wide = " or ".join(usable)
        raise ConfigError(
            f"form {wide}, whose targets have a width",
            got=form.form.value,
            where=f"{key}=width",
            repair=f"{key}=weight, or change loss.{modality}.form",
        )
    check_ranges(form, f"loss.{modality}", LossFormConfig)
