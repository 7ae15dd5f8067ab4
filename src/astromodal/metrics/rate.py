"""What a code costs: entropy of its usage, perplexity, codes in use.

The entropy of the empirical usage is the rate that an ideal coder without context would reach (Shannon 1948);
``log2(n_codes)`` is what a code costs without a coder.
"""

from __future__ import annotations

import numpy as np


def bits_per_symbol(counts: np.ndarray) -> float:
    """Entropy in bits of the usage ``counts`` (C,); 0 where nothing was counted.

    >>> bits_per_symbol(np.array([5, 5, 5, 5]))
    2.0
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    if total <= 0:
        return 0.0
    p = counts[counts > 0] / total
    return float(max(-(p * np.log2(p)).sum(), 0.0))


def perplexity(counts: np.ndarray) -> float:
    """Number of equally used codes with the same entropy, 1 … C.

    >>> perplexity(np.array([7, 7, 0]))
    2.0
    """
    return float(2.0 ** bits_per_symbol(counts))


def codes_used(counts: np.ndarray) -> int:
    """Number of codes that occur.

    >>> codes_used(np.array([3, 0, 1]))
    2
    """
    return int(np.count_nonzero(np.asarray(counts) > 0))
