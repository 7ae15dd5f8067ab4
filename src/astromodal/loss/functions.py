"""The public losses: reconstruction in the space of the data, alone and beside cross-entropy.

Softmax over a modality's block, expectation over its codebook, squared distance to the true entry: differentiable in
all logits of the block, and aware of which codes are near each other, which cross-entropy is not. What it does not
see: ``|E c - c_y|^2`` is zero for any distribution with the right mean, and mass outside of the block goes unnoticed;
so it stands beside cross-entropy. (``forms.py`` has other forms of it, for ``loss.image.form`` and its like.) These
functions take logits ``(B, L, V)`` and are meant to be read and to be used in one's own loop; training itself uses
the fused form (``fused/loss.py``), which gives the same numbers.

Shapes: B batch, L length, V vocabulary, K valid positions, C entries of a block, D dimensions of an entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.schema import Balance, CEMode, LossConfig
from ..errors import ConfigError
from ..vocabulary.modalities import MODALITIES
from ..vocabulary.vocab import PAD, SPECIALS, Block, VocabSpec
from .reference import as_loss_config, block_entries, block_logits, reference_terms, term_weights, total_of
from .sampling import StepWeights, Targets, check_sigma, position_weights, read_targets, weigh
from .standardize import Codebooks, CodedTable, as_codebook, as_codebooks, build_tables

_generator = torch.Generator().manual_seed(0)  # draws of combined_loss: changing sample_k disturbs no other draw


def combined_loss(
    logits: Tensor,
    targets: Tensor,
    vocab: VocabSpec,
    image_codebook: Any,
    spectrum_codebook: Any,
    scalar_centers: Any,
    config: Any = None,
    use_ce: bool = True,
    *,
    target_types: Tensor | None = None,
    target_sigma: Tensor | None = None,
    selection: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy plus the weighted reconstruction errors of the three modalities.

    Args:
        logits: ``(B, L, V)``; targets: ids of the next tokens, ``(B, L)``, PAD where there is none.
        image_codebook: ``(C, D)`` array or tensor, or a :class:`~astromodal.vocabulary.codebook.Codebook`, whose usage
            counts then enter the standardisation; None: no such term.
        spectrum_codebook: mapping from group to codebook, or one for all groups.
        scalar_centers: ``(V,)`` for all columns, ``(n_columns, V)``, or a ``ScalarCodebook``.
        config: :class:`LossConfig` or a mapping with some of its keys, such as ``{"scalar": "crps"}`` for a form.
        use_ce: False leaves cross-entropy out.
        target_types: types of the next tokens, ``(B, L)``; needed where bin centres are per column.
        target_sigma: standard errors of the next tokens in units of their codebooks, ``(B, L)``, 0 for none; needed
            with ``errors`` of a form other than ``ignore``.
        selection: per modality the flat positions to reconstruct at, instead of a draw of ``sample_k``.
        generator: for the draws; default: one of its own.

    Returns:
        the loss, and statistics without gradient: ``loss_ce loss_img loss_sca loss_spec`` (before weights),
        ``loss_total`` and the numbers of positions ``n_ce n_image n_scalar n_spectrum``.
    """
    loss = as_loss_config(config)
    check_sigma(loss, target_sigma)
    per_column = target_types is not None
    codebooks = as_codebooks(vocab, image_codebook, spectrum_codebook, scalar_centers, per_column)
    tables = build_tables(vocab, codebooks, loss.standardize, per_column, loss)
    ids = targets.detach().cpu().numpy().reshape(-1)
    types = None if target_types is None else target_types.detach().cpu().numpy().reshape(-1)
    sigma = None if target_sigma is None else target_sigma.detach().cpu().numpy().reshape(-1)
    read = read_targets(tables, ids, types, ids != PAD, sigma, targets.shape[-1])
    draws = torch.rand(2, len(ids), generator=generator or _generator, dtype=torch.float64).numpy()
    weights = weigh(read, loss, draws[0], draws[1], use_ce=use_ce, gather=lambda values: [values])
    if selection is not None and loss.enabled:
        weights = StepWeights(weights.ce, _selected(read, selection, loss))
    terms = reference_terms(logits.reshape(-1, logits.shape[-1]), read, tables, weights, loss.ce)
    total = total_of(terms, term_weights(loss))
    parts = {f"loss_{row.short}": terms[m] for m, row in MODALITIES.items()}
    stats = {"loss_ce": terms["ce"], **parts, "loss_total": total}
    stats = {name: value.detach() for name, value in stats.items()}
    counts = {"n_ce": int((weights.ce > 0).sum())}
    for index, name in enumerate(MODALITIES):
        counts[f"n_{name}"] = int(((weights.reconstruction > 0) & (read.modality == index)).sum())
    return total, stats | {name: torch.tensor(count) for name, count in counts.items()}


def _selected(targets: Targets, selection: Mapping[str, Tensor], loss: LossConfig) -> np.ndarray:
    weights = np.zeros(len(targets.tokens))
    for name, positions in selection.items():
        flat = np.asarray(positions.cpu() if isinstance(positions, Tensor) else positions).reshape(-1)
        flat = flat[targets.modality[flat] == MODALITIES.index(name)]
        shares = targets.shares[flat] if loss.balance == Balance.object else None
        weights[flat] = position_weights(
            targets.sigma[flat], len(flat), getattr(loss, name), lambda values: [values], shares
        )
    return weights


# ------------------------------------------------------------------------------ one modality at a time


def image_reconstruction_loss(
    logits: Tensor,
    targets: Tensor,
    image_codebook: Any,
    *,
    vocab: VocabSpec | None = None,
    base: int | None = None,
    sample_k: int | None = None,
    generator: torch.Generator | None = None,
    standardize: bool = True,
    return_reconstruction: bool = False,
) -> Tensor:
    """Mean reconstruction error of the image tokens, or with ``return_reconstruction`` the expected entries.

    Logits may be over the image block alone, ``(…, C)``, with local codes as targets, or over the vocabulary,
    ``(…, V)``, with ids as targets; the block then begins at ``vocab.base_image``, or at ``base``, or else right
    after the specials, where :func:`~astromodal.vocabulary.vocab.build_vocab_spec` puts it.

    Returns:
        the error, 0-dimensional, in units of the codebook's variance; or the expected entries ``(K, D)`` at the K
        valid positions, in their order, in the codebook's own (raw) units.
    """
    book = as_codebook(image_codebook)
    size = len(book.entries)
    if base is None:
        base = 0 if logits.shape[-1] == size else len(SPECIALS) if vocab is None else vocab.base_image
    own = _one_block("image", "image", base, size)
    books = Codebooks(image=book)
    return _one_modality(logits, targets, None, own, books, sample_k, generator, standardize, return_reconstruction)


def scalar_reconstruction_loss(
    logits: Tensor,
    targets: Tensor,
    scalar_centers: Any,
    *,
    vocab: VocabSpec | None = None,
    base: int | None = None,
    target_types: Tensor | None = None,
    sample_k: int | None = None,
    generator: torch.Generator | None = None,
    standardize: bool = True,
    return_reconstruction: bool = False,
) -> Tensor:
    """As :func:`image_reconstruction_loss`, for scalars: bin centres ``(V,)``, ``(n_columns, V)`` or a codebook.

    Logits over the vocabulary need ``vocab`` or ``base``; centres per column need ``vocab`` and ``target_types``.
    Reconstructions are ``(K, 1)``, in the columns' transformed space.
    """
    bins = getattr(scalar_centers, "centers", scalar_centers).shape[-1]
    base = _base(logits, bins, base, None if vocab is None else vocab.base_scalar)
    own = _one_block("scalar", "scalar", base, bins, vocab if target_types is not None else None)
    codebooks = as_codebooks(own, None, None, scalar_centers, target_types is not None)
    return _one_modality(
        logits, targets, target_types, own, codebooks, sample_k, generator, standardize, return_reconstruction
    )


def spectrum_reconstruction_loss(
    logits: Tensor,
    targets: Tensor,
    spectrum_codebook: Any,
    *,
    vocab: VocabSpec | None = None,
    base: int | None = None,
    group: str = "spectrum",
    sample_k: int | None = None,
    generator: torch.Generator | None = None,
    standardize: bool = True,
    return_reconstruction: bool = False,
) -> Tensor | dict[str, Tensor]:
    """As :func:`image_reconstruction_loss`, for spectra: one group's codebook, or a mapping from group to codebook.

    A mapping needs ``vocab``; the error is then over all groups' positions together, and reconstructions are a
    mapping from group to ``(K, D)``. One codebook and logits over the vocabulary need ``base``, or ``vocab`` and
    ``group`` (default: the first group).
    """
    if isinstance(spectrum_codebook, Mapping):
        if vocab is None:
            raise ConfigError("vocab=, which says where each group's block begins", got="none")
        books = as_codebooks(vocab, None, spectrum_codebook, None, False)
        return _one_modality(
            logits, targets, None, vocab, books, sample_k, generator, standardize, return_reconstruction, by_group=True
        )
    size = len(getattr(spectrum_codebook, "entries", spectrum_codebook))
    start = None if vocab is None else vocab.block(group).start if vocab.has_block(group) else vocab.base_spectrum
    own = _one_block(group, "spectrum", _base(logits, size, base, start), size)
    books = as_codebooks(own, None, {group: spectrum_codebook}, None, False)
    return _one_modality(logits, targets, None, own, books, sample_k, generator, standardize, return_reconstruction)


def _base(logits: Tensor, size: int, base: int | None, of_vocab: int | None) -> int:
    """First id of a block: as given, 0 for logits over the block alone, else from the vocabulary."""
    if base is not None:
        return base
    if logits.shape[-1] == size:
        return 0
    if of_vocab is None:
        raise ConfigError(
            f"logits over the {size} entries of the block",
            got=f"{logits.shape[-1]} logits",
            repair="pass vocab= (or base=, the block's first id)",
        )
    return of_vocab


def _one_block(name: str, modality: str, start: int, size: int, like: VocabSpec | None = None) -> VocabSpec:
    """A vocabulary of one block, for losses of one modality; columns and groups (for the types) as in ``like``."""
    groups = (name,) if modality == "spectrum" else () if like is None else like.spectrum_groups
    columns, n_bins = ((), None) if like is None else (like.scalar_columns, like.n_bins)
    return VocabSpec((Block(name, modality, start, size),), groups, columns, n_bins)


def _one_modality(
    logits: Tensor,
    targets: Tensor,
    target_types: Tensor | None,
    vocab: VocabSpec,
    codebooks: Codebooks,
    sample_k: int | None,
    generator: torch.Generator | None,
    standardize: bool,
    return_reconstruction: bool,
    by_group: bool = False,
) -> Any:
    """Error over, or expected entries of, the blocks that have a codebook; other targets do not count."""
    tables = build_tables(vocab, codebooks, standardize, target_types is not None)
    logits, ids = logits.reshape(-1, logits.shape[-1]), targets.detach().cpu().numpy().reshape(-1)
    types = None if target_types is None else target_types.detach().cpu().numpy().reshape(-1)
    inside = np.zeros(len(ids), dtype=bool)
    for table in tables.coded:
        inside |= (ids >= table.start) & (ids < table.start + table.size)
    read = read_targets(tables, ids, None if types is None else np.where(inside, types, 0), inside)
    if return_reconstruction:
        parts = {
            table.name: _reconstructed(logits, read, table, index)
            for index, table in enumerate(tables.blocks)
            if isinstance(table, CodedTable)
        }
        return parts if by_group else next(iter(parts.values()))
    loss = LossConfig(sample_k=sample_k, use_ce=False)
    draws = torch.rand(len(ids), generator=generator or _generator, dtype=torch.float64).numpy()
    weights = weigh(read, loss, draws, draws, gather=lambda values: [values])
    terms = reference_terms(logits, read, tables, weights, CEMode.full)
    return sum(terms[m] for m in MODALITIES)


def _reconstructed(logits: Tensor, targets: Targets, table: CodedTable, index: int) -> Tensor:
    """Expected raw entries ``(K, D)`` at the K targets of block ``index``, in their order."""
    rows = np.flatnonzero((targets.blocks == index) & (targets.modality >= 0))
    width = 1 if table.modality == "scalar" else table.entries.shape[1]
    result = logits.new_zeros(len(rows), width)
    for column in np.unique(targets.columns[rows]):
        chosen = torch.as_tensor(np.flatnonzero(targets.columns[rows] == column), device=logits.device)
        own = block_logits(logits[torch.as_tensor(rows, device=logits.device)[chosen]], table, int(column))
        expected = torch.softmax(own, dim=-1) @ block_entries(table, int(column)).to(logits)
        scale, mean = (
            (table.scale[column], table.mean[column])
            if width == 1 and table.modality == "scalar"
            else (table.scale, table.mean)
        )
        result = result.index_copy(0, chosen, expected * scale.to(logits) + mean.to(logits))
    return result
