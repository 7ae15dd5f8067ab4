"""Pure functions on arrays: how many bits a code costs, and how far a reconstruction is from the truth."""

from .rate import bits_per_symbol, codes_used, perplexity
from .reconstruction import ErrorSums, chi2, fraction_of_variance, mae, r2, rmse

__all__ = [
    "ErrorSums",
    "bits_per_symbol",
    "chi2",
    "codes_used",
    "fraction_of_variance",
    "mae",
    "perplexity",
    "r2",
    "rmse",
]
