"""Pure functions on arrays: what a code costs, how far a prediction is from the truth, whether its errors are right."""

from .bootstrap import Interval, PairedDifference, bootstrap_figures, paired_bootstrap
from .calibration import coverage, pit_histogram, uniformity
from .images import noise_units
from .photo_z import photo_z_figures
from .posterior import cdf_at, cdf_of_bins, crps, crps_of_quantiles, pit_of_quantiles
from .rate import bits_per_symbol, codes_used, perplexity
from .reconstruction import ErrorSums, chi2, fraction_of_variance, mae, r2, rmse
from .scalars import scalar_figures
from .spectra import chi2_per_pixel

__all__ = [
    "ErrorSums",
    "Interval",
    "PairedDifference",
    "bits_per_symbol",
    "bootstrap_figures",
    "cdf_at",
    "cdf_of_bins",
    "chi2",
    "chi2_per_pixel",
    "codes_used",
    "coverage",
    "crps",
    "crps_of_quantiles",
    "fraction_of_variance",
    "mae",
    "noise_units",
    "paired_bootstrap",
    "perplexity",
    "photo_z_figures",
    "pit_histogram",
    "pit_of_quantiles",
    "r2",
    "rmse",
    "scalar_figures",
    "uniformity",
]
