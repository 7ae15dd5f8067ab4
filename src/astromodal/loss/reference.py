"""The reconstruction loss in its readable form, term by term, from logits.

Per modality, at given positions: softmax over the logits of *that modality's block* (that spectrum group's, that
scalar column's bins), expectation over its codebook, squared distance to the true entry, in units of the codebook's
spread (``standardize.py``) and summed over the dimensions; or one of the other forms (``forms.py``). ``losses.py``
has the public functions around it, and ``fused/loss.py`` the fast form, which is tested against this one.

Shapes: N positions, V vocabulary, K positions of one block, C entries of a block, D dimensions of an entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.checks.loss_choices import check_form, check_shares, check_width
from ..config.schema import Balance, CEBalance, CEMode, ErrorUse, LossConfig, LossForm, LossFormConfig
from ..errors import ConfigError
from ..vocabulary.modalities import MODALITIES
from .forms import values as form_values
from .sampling import StepWeights, Targets
from .standardize import BlockTable, CodedTable, Tables


def as_loss_config(config: Any) -> LossConfig:
    """:class:`LossConfig` from itself, a mapping with some of its keys, an object with such attributes, or None.

    ``sample_k_per_modality``, as it is called in places, is ``sample_k``; a form may be given by its name alone.

    >>> as_loss_config({"enabled": True, "sample_k_per_modality": 64, "weight_image": 0.2}).sample_k
    64
    >>> as_loss_config({"scalar": "crps", "image": {"form": "neighbour_ce", "n_neighbours": 8}}).scalar.form.value
    'crps'

    Raises:
        ConfigError: an unknown key, with the nearest known one, or a form that the modality cannot have.
    """
    values = _known_values(config, LossConfig, "loss")
    loss = LossConfig(**values)
    forms: dict[str, Any] = {modality: _as_form(getattr(loss, modality), modality) for modality in MODALITIES}
    check_shares(loss)
    for modality, form in forms.items():
        check_width(modality, form, loss.standardize)
    ce_balance, balance = CEBalance(loss.ce_balance), Balance(loss.balance)
    return replace(loss, ce=CEMode(loss.ce), ce_balance=ce_balance, balance=balance, **forms)


def _as_form(config: Any, modality: str) -> LossFormConfig:
    where = f"loss.{modality}"
    config = {"form": config} if isinstance(config, str) else config
    form = LossFormConfig(**_known_values(config, LossFormConfig, where))
    names = [f.value for f in LossForm]
    if form.form not in names:
        raise ConfigError(
            f"one of {', '.join(names)}",
            got=repr(form.form),
            where=f"{where}.form",
            repair=_nearest(str(form.form), names),
        )
    uses = [use.value for use in ErrorUse]
    if form.errors not in uses:
        raise ConfigError(
            f"one of {', '.join(uses)}",
            got=repr(form.errors),
            where=f"{where}.errors",
            repair=_nearest(str(form.errors), uses),
        )
    form = replace(form, form=LossForm(form.form), errors=ErrorUse(form.errors))
    check_form(modality, form)
    return form


def _known_values(config: Any, schema: type, where: str) -> dict[str, Any]:
    values = {} if config is None else dict(config) if isinstance(config, Mapping) else dict(vars(config))
    if schema is LossConfig and "sample_k_per_modality" in values:
        values["sample_k"] = values.pop("sample_k_per_modality")
    known = [f.name for f in fields(schema)]
    for key in values:
        if key not in known:
            raise ConfigError("a key of the loss", got=repr(key), where=where, repair=_nearest(key, known))
    return values


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "use one of " + ", ".join(known)


def block_logits(logits: Tensor, table: BlockTable, column: int) -> Tensor:
    """Logits over one block, or over the bins of one scalar column."""
    size = table.size if table.n_bins is None else int(table.n_bins[column])
    return logits[:, table.start : table.start + size]


def block_entries(table: CodedTable, column: int) -> Tensor:
    """Entries ``(C, D)`` of one block, or of the bins of one scalar column."""
    return table.entries if table.n_bins is None else table.entries[column, : int(table.n_bins[column]), None]


def reference_terms(
    logits: Tensor, targets: Targets, tables: Tables, weights: StepWeights, ce: CEMode
) -> dict[str, Tensor]:
    """Weighted sums of the terms, ``ce`` and one of each modality, from logits ``(N, V)``."""
    device = logits.device
    zero = logits.reshape(-1)[:0].sum()  # exactly 0, with a gradient that is exactly 0
    terms = {"ce": zero, **{m: zero for m in MODALITIES}}
    tokens = torch.as_tensor(targets.tokens, device=device)
    logits = logits if logits.dtype == torch.float64 else logits.float()

    def at(mask: np.ndarray) -> Tensor:
        return torch.as_tensor(np.flatnonzero(mask), device=device)

    if ce == CEMode.full and weights.ce.any():
        rows = at(weights.ce > 0)
        w = torch.as_tensor(weights.ce, device=device).to(logits)[rows]
        terms["ce"] = zero + (F.cross_entropy(logits[rows], tokens[rows], reduction="none") * w).sum()
    for index, table in enumerate(tables.blocks):
        for column in range(tables.n_columns if table.modality == "scalar" else 1):
            here = (targets.blocks == index) & (targets.columns == column)
            if ce == CEMode.block and (here & (weights.ce > 0)).any():
                rows = at(here & (weights.ce > 0))
                w = torch.as_tensor(weights.ce, device=device).to(logits)[rows]
                own = block_logits(logits[rows], table, column)
                loss = F.cross_entropy(own, tokens[rows] - table.start, reduction="none")
                terms["ce"] = terms["ce"] + (loss * w).sum()
            if isinstance(table, CodedTable) and (here & (weights.reconstruction > 0)).any():
                rows = at(here & (weights.reconstruction > 0))
                w = torch.as_tensor(weights.reconstruction, device=device).to(logits)[rows]
                own, entries = block_logits(logits[rows], table, column), block_entries(table, column)
                sigma = torch.as_tensor(targets.sigma, device=device).to(logits)[rows]
                error = form_values(table.form, own, tokens[rows] - table.start, entries, sigma)
                terms[table.modality] = terms[table.modality] + (error * w).sum()
    return terms


def total_of(terms: Mapping[str, Tensor], weights: Mapping[str, Any]) -> Tensor:
    """``ce`` + the sum over the modalities of ``weight_<m> * <m>``."""
    return terms["ce"] + sum(weights[m] * terms[m] for m in MODALITIES)


def term_weights(loss: LossConfig) -> dict[str, float]:
    """Weight of each modality's reconstruction in the total, as configured."""
    return {m: float(getattr(loss, f"weight_{m}")) for m in MODALITIES}
