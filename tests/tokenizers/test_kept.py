"""What the spectrum tokenizer's report says of pixels, lines and redshifts, of all groups together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astromodal.config.schema import DataConfig, SpectrumGroupConfig, SyntheticConfig
from astromodal.data.datacube import Datacube
from astromodal.data.synthetic import sed, spectra
from astromodal.data.synthetic.population import draw_field
from astromodal.runs.tables import _kept_by_codes
from astromodal.tokenizers.spectrum.kept import kept_by_codes
from tests.tokenizers.survey import write_cube

N = 150


class Copying:
    """A tokenizer without loss, but for a factor: its codes are the pixels."""

    groups = ("desi_b", "desi_r")

    def __init__(self, data, factor=1.0):
        self.factor = factor

    def encode_parts(self, group, batch):
        return {group: (self.factor * batch.flux, batch.present, None)}

    def decode_parts(self, group, tokens):
        return tokens[0]


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """A field of the synthetic sky with two arms, of which some objects lack one or both."""
    root, p = tmp_path_factory.mktemp("sky"), draw_field(0, 0, N)
    rows = {"id": [f"SYN-0001_{k}" for k in range(N)], "specz_z": p["redshift"].tolist()}
    groups = {}
    for arm, lacks in (("b", 5), ("r", 3)):
        flux, ivar = spectra.observe_arm(np.random.default_rng(1), arm, p)
        has, wave = np.arange(N) % lacks > 0, spectra.arm_wave(arm)
        for name, values in (("flux", flux), ("ivar", ivar)):
            pairs = zip(values.astype(np.float32), has, strict=True)
            rows[f"{arm}_{name}"] = [row.tolist() if there else None for row, there in pairs]
        ends = {"wave_min": float(wave[0]), "wave_max": float(wave[-1]), "wave_step": spectra.ARM_STEP}
        groups[f"desi_{arm}"] = SpectrumGroupConfig(flux=f"{arm}_flux", ivar=f"{arm}_ivar", **ends)
    write_cube(root / "datacube_SYN-0001.parquet", rows)
    synthetic = SyntheticConfig(n_fields=1, n_objects_per_field=N)
    data = DataConfig(name="sky", root=str(root), ra_column=None, dec_column=None, spectra=groups, synthetic=synthetic)
    return data, [Datacube(root / "datacube_SYN-0001.parquet", data)], p


def judged(sky, factor=1.0, **changes):
    data, cubes, _ = sky
    data = dataclasses.replace(data, **changes)
    return kept_by_codes(Copying(data, factor), cubes, {"SYN-0001": np.ones(N, bool)}, data)


def test_what_is_copied_has_the_noise_of_the_data_and_its_lines_and_redshifts(sky):
    found = judged(sky)
    assert found["n"] == sum(k % 5 > 0 or k % 3 > 0 for k in range(N))
    everything = found["by_snr"][-1]
    assert everything["chi2_pooled"] == pytest.approx(0, abs=1e-9)
    assert everything["error_over_noise"] == pytest.approx(1, abs=0.02)
    assert all(row["scatter"] == pytest.approx(row["scatter_of_data"], rel=1e-3) for row in found["lines"])
    kind, redshift = sky[2]["kind"], sky[2]["redshift"]
    assert found["redshifts"]["n_from_data"] == found["redshifts"]["n_from_decoded"] > 0
    assert found["redshifts"]["n"] <= ((kind != sed.STAR) & (redshift < 0.8)).sum()
    assert all(z["n"] == z["n_agree"] > 0 and z["scatter"] == z["bias"] == 0 for z in found["agree"].values())


def test_without_a_truth_the_data_is_the_measure(sky):
    found = judged(sky, factor=0.7, synthetic=None)
    assert "error_over_noise" not in found["by_snr"][-1]
    assert all(row["kept"] == pytest.approx(0.7, rel=1e-4) and row["scatter"] < 1e-3 for row in found["lines"])
    shown = "\n".join(_kept_by_codes(found))
    assert "observed flux kept" in shown and "error / noise" not in shown
    assert f"of {found['redshifts']['n']}: {found['redshifts']['n_from_data']} right from the data" in shown
    assert f"{found['agree']['galaxy']['n']}: {found['agree']['galaxy']['n']} the same" in shown
    assert found["colour"]["n"] > 20 and abs(found["colour"]["bias"]) < 1e-6 and "colour of the continuum" in shown
    assert "true flux kept" in "\n".join(_kept_by_codes(judged(sky)))


def test_nothing_to_judge_is_nothing_said(sky):
    data, cubes, _ = sky
    nanometres = {name: dataclasses.replace(group, wave_unit="nm") for name, group in data.spectra.items()}
    assert judged(sky, spectra=nanometres) == {}
    assert kept_by_codes(Copying(data), cubes, {"SYN-0001": np.zeros(N, bool)}, data) == {}
    assert _kept_by_codes({}) == []


def test_some_objects_stand_for_many(sky, monkeypatch):
    monkeypatch.setattr("astromodal.tokenizers.spectrum.kept.N_JUDGED", 20)
    monkeypatch.setattr("astromodal.tokenizers.spectrum.kept._ROWS", 30)
    assert 20 <= judged(sky)["n"] <= 30
