"""What the model expects, drawn: for a few held-out objects the decoded tokens beside the decoded expectation.

At every position the model sees the true tokens before it (teacher forcing) and answers with a distribution over the
codes of the next one; its mean over the codebook is decoded as if it were a code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..loss.shifting import model_inputs, shift
from ..vocabulary.codebook import Codebook
from ..vocabulary.vocab import VocabSpec

if TYPE_CHECKING:
    from ..tokenizers.image.tokenizer import ImageTokenizer
    from ..tokenizers.spectrum.tokenizer import SpectrumTokenizer


@torch.no_grad()
def expected_entries(
    model: torch.nn.Module,
    batches: Iterable[dict],
    vocab: VocabSpec,
    name: str,
    codebook: Codebook,
    length: int,
    device: torch.device,
    *,
    next_types: bool = True,
    n_objects: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and expected entries of the first objects that have the part ``name`` (``image`` or a spectrum group).

    Args:
        length: tokens of the part.

    Returns:
        codes ``(n, length)`` and expected entries ``(n, length, D)``; n may be 0.
    """
    block = vocab.block(name)
    entries = torch.as_tensor(codebook.entries, device=device)
    codes, expected = [np.zeros((0, length), np.int64)], [np.zeros((0, length, entries.shape[1]), np.float32)]
    was_training = model.training
    model.eval()
    for batch in batches:
        part = shift(batch)
        targets = part["targets"]
        inside = (targets >= block.start) & (targets < block.stop)
        rows = torch.nonzero(inside.sum(1) == length)[: n_objects - sum(map(len, codes)), 0]
        if len(rows):
            own = {key: value[rows].to(device) for key, value in part.items()}
            inputs, told = model_inputs(own, next_types, getattr(model, "reads_errors", False))
            at = inside[rows]
            logits = model(*inputs, **told)[at.to(device)][:, block.start : block.start + len(entries)].float()
            codes.append((targets[rows][at] - block.start).reshape(len(rows), length).numpy())
            expected.append((logits.softmax(-1) @ entries).reshape(len(rows), length, -1).cpu().numpy())
        if sum(map(len, codes)) >= n_objects:
            break
    model.train(was_training)
    return np.concatenate(codes), np.concatenate(expected)


def image_examples(tokenizer: ImageTokenizer, codes: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cutouts ``(n, C, S, S)`` in arcsinh scale: decoded from the codes, and from the model's expectation."""
    grid = tokenizer.fitted().latent_shape
    latents = np.ascontiguousarray(expected.transpose(0, 2, 1)).reshape(len(expected), *grid)
    return tokenizer.decode(codes.astype(np.uint16)).normalized, tokenizer.decode_latents(latents).normalized


def spectrum_examples(
    tokenizer: SpectrumTokenizer, group: str, codes: np.ndarray, expected: np.ndarray
) -> list[dict[str, Any]]:
    """Spectra in units of their scale: decoded from the codes, and from the model's expectation, for the plot."""
    true = tokenizer.decode_normalized(group, codes)
    model = tokenizer.decode_features(group, expected)
    wave = np.arange(true.shape[1])
    return [
        {"group": group, "wave": wave, "flux": t, "reconstruction": m, "unit": "of its scale", "wave_unit": "pixel"}
        for t, m in zip(true, model, strict=True)
    ]
