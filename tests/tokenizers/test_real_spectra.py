"""Real spectra and catalogue values, where the data is there: other lengths, null ivar, masked sky lines, sentinels."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.config.schema import (
    DataConfig,
    KMeansConfig,
    ScalarConfig,
    ScalarTokenizerConfig,
    SpectrumGroupConfig,
    SpectrumKind,
    SpectrumTokenizerConfig,
)
from astromodal.data.datacube import Datacube
from astromodal.data.splits import assign_splits
from astromodal.tokenizers import ScalarTokenizer, SpectrumTokenizer

ARMS = {"b": (3600.0, 5800.0), "r": (5760.0, 7620.0), "z": (7520.0, 9824.0)}


@pytest.fixture(scope="module")
def survey(realdata):
    spectra = {
        f"desi_{arm}": SpectrumGroupConfig(
            flux=f"desi_flux_{arm}",
            ivar=f"desi_ivar_{arm}",
            wave=f"desi_wave_{arm}",
            wave_min=low,
            wave_max=high,
            wave_step=0.8,
        )
        for arm, (low, high) in ARMS.items()
    }
    for arm in ("bp", "rp"):
        spectra[f"gaiaxp_{arm}"] = SpectrumGroupConfig(
            kind=SpectrumKind.coefficients, flux=f"gaiaxp_{arm}_coefficients", n_coefficients=55
        )
    bands = ("u", "J0378", "g", "r", "i", "z")
    scalars = {
        f"mag_{band}": ScalarConfig(
            column=f"mag_pstotal_{band}",
            error=f"err_mag_pstotal_{band}",
            unit="mag",
            nondetection=99.0,
            sentinels=[-99.0],
            fit_min=14,
            fit_max=22,
            max_error=0.5,
        )
        for band in bands
    }
    scalars["redshift"] = ScalarConfig(column="specz_z", error="specz_e_z")
    scalars["parallax"] = ScalarConfig(column="gaia_parallax", unit="mas")
    data = DataConfig(name="splus", root=str(realdata / "splus"), scalars=scalars, spectra=spectra)
    cubes = [Datacube(path, data) for path in sorted((realdata / "splus").glob("datacube_*.parquet"))]
    return data, cubes, assign_splits(cubes, data)


def test_real_spectra_are_reconstructed(survey):
    data, cubes, splits = survey
    tokenizer = SpectrumTokenizer(SpectrumTokenizerConfig(quantizer=KMeansConfig(n_codes=256)))
    report = tokenizer.fit(cubes, splits, data)
    assert tokenizer.groups == tuple(data.spectra) and not report["skipped"]
    assert tokenizer.length("desi_b") == 86 and tokenizer.length("gaiaxp_bp") == 2
    for group, entry in report["groups"].items():
        assert entry["n_spectra"] > 0 and entry["codes_used"] > 16 and np.isfinite(entry["rmse_normalized"]), group
        if group.startswith("desi"):  # mostly noise per pixel: as close as the noise is what can be had
            assert entry["chi2_per_pixel"] < 3 and entry["median_error_over_noise"] < 1
        else:
            assert entry["fraction_of_variance"] < 0.5


def test_real_columns_are_binned(survey):
    data, cubes, splits = survey
    tokenizer = ScalarTokenizer(ScalarTokenizerConfig())
    report = tokenizer.fit(cubes, splits, data)["columns"]
    assert report["parallax"]["status"] == "never observed"
    for band in ("g", "r", "i", "z"):
        assert report[f"mag_{band}"]["median_error_over_measurement_error"] < 0.5
    assert report["mag_u"]["nondetected_fraction"] > 0.005
