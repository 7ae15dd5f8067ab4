"""How each modality's tokenizer is drawn after it was fitted: decoded against observed, on held-out objects.

A function here takes the report of a fit, ``arrays`` included, and the path to write; it returns the path, or None
where there is nothing to draw. The table of modalities names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import curves


def plot_scalar_report(report: Mapping[str, Any], path: Path) -> Path | None:
    """Decoded against observed values, a panel per column."""
    panels = [
        {"name": column, "unit": report["columns"][column]["unit"], "true": a[:, 0], "predicted": a[:, 1]}
        for column, a in (report.get("arrays") or {}).items()
        if len(a)
    ]
    return curves.plot_scalars(panels, path, title="decoded against observed")


def plot_spectrum_report(report: Mapping[str, Any], path: Path, per_group: int = 2) -> Path | None:
    """Observed and decoded spectra, some of each group."""
    panels = []
    for group, arrays in (report.get("arrays") or {}).items():
        for k in range(min(per_group, len(arrays["flux"]))):
            panels.append(
                {
                    "group": group,
                    "wave": arrays["wave"],
                    "flux": arrays["flux"][k],
                    "reconstruction": arrays["reconstruction"][k],
                    "valid": arrays["ivar"][k] > 0,
                    "unit": report["groups"][group]["unit"],
                }
            )
    return curves.plot_spectra(panels, path)


def plot_image_report(report: Mapping[str, Any], path: Path) -> Path | None:
    """Observed and decoded cutouts, band by band."""
    arrays = report.get("arrays") or {}
    return curves.plot_cutouts(arrays["true"], arrays["reconstruction"], arrays["bands"], path, mask=arrays["mask"])
