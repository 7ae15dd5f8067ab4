"""A synthetic sky with a known answer, in the layout of the real 12-band cubes.

Stars, galaxies and quasars are drawn from a small physical model (``population``), which gives each a spectrum
(``sed``); magnitudes (``catalogue``), cutouts (``cutouts``) and spectra (``spectra``) are all observed from that one
spectrum, with noise of known size, and most objects lack most of them (``write``, ``survey``). Because the truth is
known, so is the best possible error of a quantity (``truth``).
"""

from .survey import check_place, ensure_survey
from .truth import noise_limited_error, true_parameters

__all__ = ["check_place", "ensure_survey", "noise_limited_error", "true_parameters"]
