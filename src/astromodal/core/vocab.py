"""The public name ``astromodal.core.vocab``; it lives in :mod:`astromodal.vocabulary.vocab`."""

from ..vocabulary.vocab import BOS, EOS, MISS, NONDET, PAD, Block, VocabSpec, build_vocab_spec

__all__ = ["BOS", "EOS", "MISS", "NONDET", "PAD", "Block", "VocabSpec", "build_vocab_spec"]
