"""A field of tokens, a layout and a model that are small enough to be asked by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from astromodal.ask.engine import Engine
from astromodal.ask.prefixes import Slots
from astromodal.ask.questions import Plan, Question, plan_questions
from astromodal.config.schema import Precision, ScalarConfig, Transform, ValuesConfig
from astromodal.loss.standardize import Codebooks
from astromodal.models import CausalTransformerLM
from astromodal.models.values import token_values
from astromodal.quantizers import QuantileBinner
from astromodal.sequences.layout import SequenceLayout
from astromodal.tokens.store import FieldTokens, SpectrumPart
from astromodal.training.precision import MixedPrecision
from astromodal.vocabulary.codebook import Codebook
from astromodal.vocabulary.vocab import BOS, MISS, NONDET, build_vocab_spec

COLUMNS = {
    "r": ScalarConfig(unit="mag"),
    "z": ScalarConfig(transform=Transform.asinh, softening=0.1),
    "t": ScalarConfig(transform=Transform.log10, unit="K"),
    "xp_scale": ScalarConfig(transform=Transform.log10),
}
N_BINS, GROUPS, IMAGE_LENGTH = (5, 8, 4, 6), {"xp": 3, "xp.1": 3, "sp": 2}, 4
SIZES = {"xp": 9, "xp.1": 7, "sp": 6}


def layout(modalities=("scalar", "spectrum", "image")) -> SequenceLayout:
    vocab = build_vocab_spec(10, 8, SIZES, tuple(SIZES), tuple(COLUMNS), N_BINS)
    return SequenceLayout(vocab, modalities, tuple(COLUMNS), GROUPS, IMAGE_LENGTH, 64)


def field(n: int = 23, seed: int = 0) -> FieldTokens:
    """Objects with most parts missing; row 0 has everything, row 1 nothing, row 2 no scalar, row 3 scalars alone."""
    rng = np.random.default_rng(seed)

    def some(share: float, rows=(0,), without=(1,)) -> np.ndarray:
        there = rng.random(n) < share
        there[list(rows)], there[list(without)] = True, False
        return there

    present = np.stack([some(0.6, (0, 3), (1, 2)) for _ in COLUMNS], 1)
    undetected = present & (rng.random(present.shape) < 0.15)
    undetected[[0, 3]] = False
    tokens = rng.integers(0, N_BINS, present.shape) * present
    values = np.exp(rng.normal(0, 1, present.shape)).astype(np.float32)
    scalar = {
        "tokens": tokens.astype(np.uint16),
        "present": present & ~undetected,
        "nondetected": undetected,
        "clipped": present & ~undetected & (rng.random(present.shape) < 0.1),
        "values": values,
        "errors": np.where(rng.random(present.shape) < 0.5, values / 10, np.nan).astype(np.float32),
        "sigma": np.zeros(present.shape, np.float16),
    }
    spectra = {}
    for group, length in GROUPS.items():
        there = spectra["xp"].present if group == "xp.1" else some(0.5, (0, 2), (1, 3))
        codes = rng.integers(0, SIZES[group], (int(there.sum()), length)).astype(np.uint16).reshape(-1)
        offsets = np.concatenate([[0], np.cumsum(there * length)])
        spectra[group] = SpectrumPart(codes, offsets, there, np.zeros(len(codes), np.float16), length)
    image = {"tokens": rng.integers(0, 10, (n, IMAGE_LENGTH)).astype(np.uint16), "present": some(0.4, (0, 2), (1, 3))}
    image["sigma"] = np.zeros(image["tokens"].shape, np.float16)
    ids = np.array([f"obj{i}" for i in range(n)])
    return FieldTokens("F0", ids, rng.integers(0, 3, n).astype(np.uint8), tuple(COLUMNS), scalar, spectra, image)


def model(dtype: torch.dtype = torch.float64, errors: bool = False) -> CausalTransformerLM:
    """Random weights that are large enough for every token, and ``errors``, to matter."""
    vocab = layout().vocab
    torch.manual_seed(0)
    values = token_values(vocab, Codebooks(), ValuesConfig(errors=True)) if errors else None
    sizes = {"max_len": 64, "grid_width": 2, "values": values}
    network = CausalTransformerLM(vocab.vocab_size, vocab.n_types, 16, 2, 4, 32, **sizes)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() > 1:
                weight.mul_(12 if "embedding" in name else 5)
    return network.to(dtype).eval()


def plan(order="random", missing="absent", **changes) -> Plan:
    wanted = {"given": None, "predict": None} | changes
    return plan_questions(layout(), order=order, missing=missing, next_types=True, **wanted)


def engine(
    batch_size: int = 64, dtype: torch.dtype = torch.float64, network: CausalTransformerLM | None = None
) -> Engine:
    precision = MixedPrecision(Precision.float32, torch.device("cpu"))
    return Engine(network or model(dtype), layout().vocab, N_BINS, precision, batch_size)


def slots(asked: Plan, tokens: FieldTokens | None = None) -> Slots:
    tokens = field() if tokens is None else tokens
    return Slots.read(tokens, 0, len(tokens), layout(), asked)


def part_tokens(tokens: FieldTokens, row: int, name: str) -> list[int] | None:
    """Global ids of one part of one object; None where it has none."""
    vocab = layout().vocab
    if name in tokens.columns:
        j = tokens.columns.index(name)
        if tokens.scalar["nondetected"][row, j]:
            return [NONDET]
        start = vocab.block("scalar").start
        return [start + int(tokens.scalar["tokens"][row, j])] if tokens.scalar["present"][row, j] else None
    if name == "image":
        start = vocab.block("image").start
        return [start + int(c) for c in tokens.image["tokens"][row]] if tokens.image["present"][row] else None
    part, start = tokens.spectra[name], vocab.block(name).start
    if not part.present[row]:
        return None
    return [start + int(c) for c in part.tokens[part.offsets[row] : part.offsets[row + 1]]]


@dataclass
class Prefix:
    """One object's prefix, written out."""

    tokens: list[int]
    types: list[int]
    both_ways: int | None = None  # tokens that see each other


def prefix(tokens: FieldTokens, row: int, asked: Plan, question: Question) -> Prefix:
    """What an object's model is shown, in plain Python."""
    found = Prefix([], []) if asked.ask else Prefix([BOS], [0])
    for segment in asked.order:
        own = part_tokens(tokens, row, segment.name)
        if segment.name in question.given and own is not None:
            shown = own
        elif asked.missing_token and question.scale is not None and segment.name == question.scale.name:
            shown = []
        elif asked.missing_token and (
            segment.name in question.given or (asked.fixed and asked.places[segment.name] < question.place)
        ):
            shown = [MISS]
        else:
            shown = []
        found.tokens += shown
        found.types += [segment.type] * len(shown)
    return with_bos(found) if asked.ask else found


def with_bos(given: Prefix) -> Prefix:
    """What is given, and BOS behind it."""
    return Prefix([*given.tokens, BOS], [*given.types, 0], len(given.tokens))


def states(
    network: CausalTransformerLM, sequence: Prefix, next_type: int, sigma: np.ndarray | None = None
) -> torch.Tensor:
    """Hidden states of a whole forward pass, (L, D); ``sigma (L,)``: errors of its tokens."""
    told = [*sequence.types[1:], next_type]
    inputs = (torch.tensor([values]) for values in (sequence.tokens, sequence.types))
    both_ways = None if sequence.both_ways is None else torch.tensor([sequence.both_ways])
    with torch.no_grad():
        sigma = None if sigma is None else torch.tensor(sigma[None]).float()
        return network.hidden(*inputs, next_types=torch.tensor([told]), prefix=both_ways, sigma=sigma)[0]


def scalar_tokenizer(seed: int = 0) -> SimpleNamespace:
    """Fitted bins for the columns."""
    rng, binners = np.random.default_rng(seed), []
    for n, config in zip(N_BINS, COLUMNS.values(), strict=True):
        values = rng.normal(3, 1, 400) if config.transform is Transform.log10 else rng.normal(0, 1, 400)
        binners.append(QuantileBinner(n, 1).fit(values.astype(np.float32)))
    return SimpleNamespace(columns=tuple(COLUMNS), configs=COLUMNS, binners=binners)


class FakeSpectra:
    """Two pixels per token: the sum of the stages' codes, plus one, and its half."""

    def __init__(self):
        grid = {"unit": "erg", "kind": "spectrum", "wave_min": 1.0, "wave_step": 2.0, "wave_unit": "nm"}
        self.layout_ = {"spectra": {"xp": grid, "sp": grid}}
        self.codecs = {"xp": SimpleNamespace(n_pixels=6), "sp": SimpleNamespace(n_pixels=4)}

    def use(self, hardware):
        return self

    def codebooks(self):
        return {name: Codebook(np.arange(n - 1.0)) for name, n in SIZES.items()}  # the block has one code more

    def linear_parts(self):
        return tuple(SIZES)

    def decode_features(self, group, entries):
        return np.repeat(entries[..., 0] + 1.0, 2, axis=1).astype(np.float32) * np.tile([1, 0.5], entries.shape[1])

    def decode_normalized(self, group, tokens):
        total = tokens.sum(-1) if tokens.ndim == 3 else tokens
        assert (tokens.ndim == 3) == (group == "xp")
        return np.repeat(total + 1.0, 2, axis=1).astype(np.float32) * np.tile([1, 0.5], total.shape[1])


class FakeImages:
    parts = ("image",)
    scaling_ = SimpleNamespace(bands=("g",))

    def use(self, hardware):
        return self

    def fitted(self):
        return SimpleNamespace(array_shape=(1, 2, 2))

    def codebooks(self):
        return {part: Codebook(np.arange(10.0)) for part in self.parts}

    def decode_parts(self, tokens):
        tokens = sum(part / 10.0**stage for stage, part in enumerate(tokens))
        return SimpleNamespace(flux=10.0 * tokens.reshape(-1, 1, 2, 2).astype(np.float32))


def tokenizers() -> SimpleNamespace:
    """A set of tokenizers that belong to :func:`layout`."""
    return SimpleNamespace(scalar=scalar_tokenizer(), spectrum=FakeSpectra(), image=FakeImages())
