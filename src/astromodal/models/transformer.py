"""The causal transformer over an object's tokens.

A pre-norm decoder as in GPT-2 (Radford et al. 2019), with two additions for multimodal sequences of which most
parts may be absent: a token knows where it stands *within its modality* (row and column of the image grid, index in
the spectrum), because absent parts shift absolute positions; and a position may be told the type of the token that
it has to predict (``next_types``), which makes any order of the parts learnable by one causal model.

A sequence may begin with a *prefix* of tokens that see each other both ways (Raffel et al. 2020, arXiv:1910.10683,
section 3.2.1; Liu et al. 2018, arXiv:1801.10198): what an object is given, of which nothing is to be predicted. What
comes after sees all of it, and otherwise only what stands before; the prefix sees nothing that comes after.

Shapes: B batch, L length, V vocabulary, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError, DataError
from .values import TokenValues, ValueEmbedding

DEFAULT_MAX_LEN = 2048


class Block(nn.Module):
    """Self-attention and feed-forward layer, each behind a norm and added to the stream."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, dropout: float, recompute: bool = False) -> None:
        """``recompute``: keep nothing but the input for the backward pass, and compute the rest again there."""
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.recompute = recompute
        self.norm_attention = nn.LayerNorm(d_model, bias=False)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.attention_out = nn.Linear(d_model, d_model, bias=False)
        self.norm_mlp = nn.LayerNorm(d_model, bias=False)
        self.mlp_in = nn.Linear(d_model, d_ff, bias=False)
        self.mlp_out = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x`` (B, L, D); ``mask`` (B, 1, L, L) True = may be seen, or None for plain causal attention."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(self._layers, x, mask, use_reentrant=False)  # draws the same dropout again
        return self._layers(x, mask)

    def _layers(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.heads(x)
        rate = self.dropout if self.training else 0.0
        return self.finish(
            x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, is_causal=mask is None)
        )

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the stream ``x`` (B, L, D), each (B, H, L, D/H)."""
        batch, length, width = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        return q, k, v

    def finish(self, x: Tensor, seen: Tensor) -> Tensor:
        """The stream (B, L, D) after what attention has ``seen`` (B, H, L, D/H) and the feed-forward layer."""
        seen = self.attention_out(seen.transpose(1, 2).reshape(x.shape))
        x = x + F.dropout(seen, self.dropout, self.training)
        inner = self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(x))))
        return x + F.dropout(inner, self.dropout, self.training)


def prefix_mask(prefix: Tensor, length: int) -> Tensor:
    """Which position sees which, ``(B, 1, L, L)``: everything before it, itself, and all of the prefix.

    >>> prefix_mask(torch.tensor([2]), 4)[0, 0].int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    """
    place = torch.arange(length, device=prefix.device)
    return ((place[:, None] >= place) | (place < prefix[:, None, None]))[:, None]


def after_prefix(prefix: Tensor, next_types: Tensor | None, shape: torch.Size, not_told: int) -> tuple[Tensor, Tensor]:
    """Positions ``(B, L)``, which count from the end of the prefix and are 0 in it (what is given is a set), and next
    types ``(B, L)``, ``not_told`` in the prefix: what is asked must not reach what is cached for all questions."""
    place = torch.arange(shape[1], device=prefix.device) - prefix[:, None]
    told = torch.full(shape, not_told, device=prefix.device) if next_types is None else next_types
    return place.clamp(min=0), torch.where(place < 0, not_told, told)


def index_in_run(types: Tensor, positions: Tensor) -> Tensor:
    """Index of each token within its run of equal types, ``(B, L)``; a token's index depends on nothing after it.

    >>> index_in_run(torch.tensor([[0, 1, 1, 1, 2, 1]]), torch.arange(6)[None]).tolist()
    [[0, 0, 1, 2, 0, 0]]
    """
    changed = F.pad(types[:, 1:] != types[:, :-1], (1, 0), value=True)
    start = torch.where(changed, positions, 0).cummax(dim=1).values
    return positions - start


class CausalTransformerLM(nn.Module):
    """Causal language model over multimodal tokens.

    Args:
        vocab_size: V.
        n_types: number of token types (``VocabSpec.n_types`` or more).
        max_len: longest sequence; ``max_seq_len`` is another name for it.
        tie_head: the output head shares the token embedding.
        grid_width: tokens per row of the image grid, for the (row, column) embedding within a modality.
        activation_checkpointing: compute each block again in the backward pass instead of keeping what is inside
            it (Chen et al. 2016, arXiv:1604.06174): the same numbers from less memory, at one more forward pass.
        values: what the tokens stand for (``values.py``); None: embeddings are learned token by token.

    Initialisation:

    ==================================================  ==================================
    token, type, next-type, position, row, column       N(0, 0.02)
    ``qkv``, ``mlp_in``, untied head, value maps        N(0, 0.02)
    ``attention_out``, ``mlp_out``                      N(0, 0.02 / sqrt(2 n_layers))
    norms                                               1
    ==================================================  ==================================

    Raises:
        ConfigError: sizes that do not fit each other.
    """

    def __init__(
        self,
        vocab_size: int,
        n_types: int = 32,
        d_model: int = 768,
        n_layers: int = 12,
        n_heads: int = 12,
        d_ff: int = 3072,
        dropout: float = 0.1,
        max_len: int | None = None,
        max_seq_len: int | None = None,
        tie_head: bool = True,
        grid_width: int = 24,
        activation_checkpointing: bool = False,
        values: TokenValues | None = None,
    ) -> None:
        super().__init__()
        if max_len is not None and max_seq_len is not None and max_len != max_seq_len:
            raise ConfigError("one of max_len and max_seq_len", got=f"{max_len} and {max_seq_len}")
        if d_model % n_heads:
            raise ConfigError("d_model divisible by n_heads", got=f"{d_model} and {n_heads}", where="model")
        self.vocab_size, self.n_types, self.d_model, self.n_layers = vocab_size, n_types, d_model, n_layers
        self.max_len = max_len or max_seq_len or DEFAULT_MAX_LEN
        self.grid_width, self.dropout = grid_width, dropout
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.type_embedding = nn.Embedding(n_types, d_model)
        self.next_type_embedding = nn.Embedding(n_types + 1, d_model)  # the last row: not told
        self.position_embedding = nn.Embedding(self.max_len, d_model)
        self.row_embedding = nn.Embedding(-(-self.max_len // grid_width), d_model)
        self.column_embedding = nn.Embedding(grid_width, d_model)
        self.blocks = nn.ModuleList(
            Block(d_model, n_heads, d_ff, dropout, activation_checkpointing) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.head = None if tie_head else nn.Linear(d_model, vocab_size, bias=False)
        self.value_embedding = None if values is None else ValueEmbedding(values, d_model)
        self._initialise()

    @property
    def layers(self) -> Sequence[Block]:
        """The blocks, by their type."""
        return cast("Sequence[Block]", self.blocks)

    def _initialise(self) -> None:
        """See the table in the class's docstring."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # norms are 1 from the start
            residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.n_layers) if residual else 0.02)

    @property
    def head_weight(self) -> Tensor:
        """Weight of the output head, ``(V, D)``; logits are ``hidden @ head_weight.T``, without a bias."""
        return (
            self.learned_head if self.value_embedding is None else self.value_embedding.head_weight(self.learned_head)
        )

    @property
    def learned_head(self) -> Tensor:
        """What of it is learned row by row: all of it, without values in the head."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    @property
    def reads_errors(self) -> bool:
        """Whether ``sigma`` makes a difference."""
        return self.value_embedding is not None and self.value_embedding.errors is not None

    def forward(
        self,
        tokens: Tensor,
        types: Tensor,
        attn_mask: Tensor | None = None,
        *,
        next_types: Tensor | None = None,
        prefix: Tensor | None = None,
        padding: str = "right",
        sigma: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next token at each position, ``(B, L, V)``; arguments as for :meth:`hidden`."""
        hidden = self.hidden(
            tokens, types, attn_mask, next_types=next_types, prefix=prefix, padding=padding, sigma=sigma
        )
        return F.linear(hidden, self.head_weight)

    def hidden(
        self,
        tokens: Tensor,
        types: Tensor,
        attn_mask: Tensor | None = None,
        *,
        next_types: Tensor | None = None,
        prefix: Tensor | None = None,
        padding: str = "right",
        sigma: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states, ``(B, L, D)``, for losses that never build ``(B, L, V)``.

        Args:
            tokens: ids, ``(B, L)``.
            types: types of the tokens, ``(B, L)``.
            attn_mask: True where a token is real, ``(B, L)``. With ``padding="right"`` (default) it is not needed
                and not used: a causal position never sees what comes after it, and dropping the mask keeps the fast
                attention kernel. What comes out at padded positions is meaningless and must not be used.
            next_types: type of the token that each position predicts, ``(B, L)``.
            prefix: how many tokens at the beginning of each sequence see each other both ways, ``(B,)``; they are not
                told what comes next. Right padding only.
            padding: ``any`` honours a mask with padding anywhere (left, holes), at the price of a slower kernel;
                positions then count real tokens only.
            sigma: standard error of what each token stands for, in units of its codebook, 0 where none is known,
                ``(B, L)``; read by a model with ``values.errors``, for which None is 0.

        Raises:
            DataError: longer than ``max_len``, or a mask that is not right padding (noticed on the CPU only; on a
                GPU the check would stall the device).
        """
        length = tokens.shape[1]
        if length > self.max_len:
            raise DataError(
                f"at most max_len={self.max_len} tokens",
                got=f"a sequence of {length}",
                repair="raise model.max_len or shorten the sequence",
            )
        x, mask = self._embed(tokens, types, attn_mask, next_types, padding, prefix, sigma)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def _embed(
        self,
        tokens: Tensor,
        types: Tensor,
        attn_mask: Tensor | None,
        next_types: Tensor | None,
        padding: str,
        prefix: Tensor | None = None,
        sigma: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sum of the embeddings (B, L, D), and the attention mask (B, 1, L, L) where one is needed."""
        length = tokens.shape[1]
        positions = torch.arange(length, device=tokens.device).expand(tokens.shape)
        mask = None
        if prefix is not None and padding != "right":
            raise ConfigError("padding='right' with a prefix", got=repr(padding))
        if padding == "any" and attn_mask is not None:
            real = attn_mask.bool()
            positions = (real.cumsum(1) - 1).clamp(min=0)
            causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
            itself = torch.eye(length, dtype=torch.bool, device=tokens.device)  # an empty row would give NaN
            mask = (causal & real[:, None, :] | itself)[:, None]
        elif padding != "right" and padding != "any":
            raise ConfigError("padding 'right' or 'any'", got=repr(padding))
        elif attn_mask is not None and attn_mask.device.type == "cpu" and not torch.compiler.is_compiling():
            real = attn_mask.bool()
            if bool((real[:, 1:] & ~real[:, :-1]).any()):
                raise DataError(
                    "a mask with padding on the right only",
                    got="real tokens after padding",
                    repair="pass padding='any'",
                )
        index = index_in_run(types, positions)
        if prefix is not None:
            mask = prefix_mask(prefix, length)
            positions, next_types = after_prefix(prefix, next_types, tokens.shape, self.n_types)
        x = self.embed(tokens, types, positions, index, next_types, sigma)
        return F.dropout(x, self.dropout, self.training), mask

    def embed(
        self,
        tokens: Tensor,
        types: Tensor,
        positions: Tensor,
        index: Tensor,
        next_types: Tensor | None,
        sigma: Tensor | None = None,
    ) -> Tensor:
        """Sum of the embeddings (B, L, D) of tokens at ``positions`` of their sequence, ``index`` of their run of
        equal types, before a token of ``next_types``, with errors ``sigma``; all (B, L)."""
        x = self._token(tokens, types, sigma) + self.type_embedding(types) + self.position_embedding(positions)
        x = x + self.row_embedding(index // self.grid_width) + self.column_embedding(index % self.grid_width)
        # Not told is a row of its own, so that every parameter always takes part (data parallelism insists on it).
        told = (
            self.next_type_embedding.weight[self.n_types]
            if next_types is None
            else self.next_type_embedding(next_types)
        )
        return x + told

    def _token(self, tokens: Tensor, types: Tensor, sigma: Tensor | None) -> Tensor:
        """What is known of the tokens themselves, ``(B, L, D)``."""
        if self.value_embedding is None:
            return self.token_embedding(tokens)
        return self.value_embedding(self.token_embedding.weight, tokens, types, sigma)
