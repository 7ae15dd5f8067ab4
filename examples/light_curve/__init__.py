"""Light curves: a modality that the program does not come with. The guide's "Adding a modality" tells how it is made.

An object has observations at irregular times in several bands, as four list columns: time, number of the band, flux,
error. ``plugins: [examples.light_curve]`` imports this module before the configuration is checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from astromodal.config.growth import add_modality
from astromodal.vocabulary.modalities import Kind, Modality


@dataclass
class LightCurveTokenizerConfig:
    """Section ``tokenizer.light_curve``."""

    n_windows: int = 8  # of equal length: tokens per object
    n_codes: int = 256
    max_fit_rows: int = 400_000  # windows kept for fitting


@dataclass
class LightCurveConfig:
    """Section ``data.light_curves``: list columns of a datacube, all four of one length in a row."""

    time: str = "time"  # days
    band: str = "band"  # 0 … n_bands - 1
    flux: str = "flux"
    error: str = "error"  # 1 sigma, in the unit of the flux
    n_bands: int = 2
    start: float = 0.0  # observations from here …
    stop: float = 100.0  # … to before here are used

    def columns(self) -> dict[str, str]:
        """What is read of a datacube, and of which kind it is."""
        return dict.fromkeys((self.time, self.band, self.flux, self.error), "list")


add_modality(
    Modality(
        name="light_curve",
        kind=Kind.vectors,
        tokenizer="examples.light_curve.tokenizer:LightCurveTokenizer",
        section="light_curves",
        folder="light_curve_tokenizers",
        plot="examples.light_curve.tokenizer:plot_report",
        short="lc",
    ),
    tokenizer=LightCurveTokenizerConfig,
    section=LightCurveConfig,
)
