"""The synthetic sky as files: layout of the real cubes, missing and damaged values, agreement with the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from astromodal.config.schema import DataConfig, SyntheticConfig
from astromodal.data import assign_splits, check_unique_ids, discover, read_images, read_scalars, read_spectra
from astromodal.data.images import image_columns
from astromodal.data.scalars import scalar_columns, scalar_sources
from astromodal.data.spectra import spectrum_columns
from astromodal.data.synthetic import ensure_survey, true_parameters

BANDS = ["u", "J0378", "J0395", "J0410", "J0430", "g", "J0515", "r", "J0660", "i", "J0861", "z"]
COLUMNS = [
    *[
        "id",
        "source",
        "ra",
        "dec",
        "a_pixel_det",
        "b_pixel_det",
        "theta_det",
        "ellipticity_det",
        "elongation_det",
        "fwhm_n_det",
    ],
    *[prefix + band for band in BANDS for prefix in ("mag_pstotal_", "err_mag_pstotal_")],
    *[f"gaia_{name}{end}" for name in ("parallax", "pmra", "pmdec") for end in ("", "_error")],
    *[f"gaia_phot_{band}_mean_flux{end}" for band in ("g", "bp", "rp") for end in ("", "_error")],
    *[f"gaia_{name}_gspphot" for name in ("teff", "logg", "mh")],
    *[f"vista_{band}apermag6{end}" for band in ("y", "j", "h", "ks") for end in ("", "err")],
    *["specz_z", "specz_e_z", "photz_z"],
    *[f"sdss_psfmag_{band}" for band in "ugriz"],
    *[
        f"splus_cut_{band}"
        for band in ["R", "I", "G", "U", "Z", "F378", "F395", "F410", "F430", "F515", "F660", "F861"]
    ],
    *[f"desi_{what}_{arm}" for what in ("wave", "flux", "ivar") for arm in "brz"],
    *["gaiaxp_bp_coefficients", "gaiaxp_rp_coefficients"],
    *["gaiaxp_bp_coefficient_errors", "gaiaxp_rp_coefficient_errors"],
    *["gaiaxp_wave", "gaiaxp_flux", "gaiaxp_flux_error"],
]


def survey(repo: Path, root: Path, **synthetic) -> DataConfig:
    """The configuration of ``data=synthetic`` with other sizes."""
    part = OmegaConf.load(repo / "conf" / "data" / "splus.yaml")
    data = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), part))
    data.name, data.root, data.synthetic = "synthetic", str(root), SyntheticConfig(**synthetic)
    data.images.zero_point_file = str(root / "zero_points.csv")
    return data


def template(data: DataConfig) -> str:
    return f"{data.root}/datacube_{{field}}.parquet"


@pytest.fixture(scope="module")
def sky(repo, tmp_path_factory) -> DataConfig:
    root = tmp_path_factory.mktemp("sky")
    data = survey(repo, root, n_fields=5, n_objects_per_field=300, image_fraction=0.15)
    ensure_survey(data, template(data))
    return data


@pytest.fixture(scope="module")
def tables(sky):
    return [pq.read_table(path) for path in ensure_survey(sky, template(sky))]


# --- layout


def test_the_columns_are_the_93_of_the_12_band_family_in_order(tables):
    assert len(COLUMNS) == 93
    assert all(table.schema.names == COLUMNS for table in tables)


def test_the_schema_is_that_of_the_real_cubes(realdata, tables):
    real = pq.read_schema(realdata / "splus" / "datacube_SPLUSDR4.parquet")
    assert tables[0].schema.remove_metadata().equals(real.remove_metadata())
    assert [str(field) for field in tables[0].schema] == [str(field) for field in real]


def test_files_are_zstd_with_split_bytes_in_row_groups_of_256(sky):
    metadata = pq.ParquetFile(ensure_survey(sky, template(sky))[0]).metadata
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [256, 44]
    for group in range(metadata.num_row_groups):
        for k in range(metadata.num_columns):
            column = metadata.row_group(group).column(k)
            assert column.compression == "ZSTD", column.path_in_schema
            is_text = column.path_in_schema in ("id", "source")
            assert ("BYTE_STREAM_SPLIT" in column.encodings) != is_text, column.path_in_schema


# --- what is missing, what is damaged


def test_shares_of_objects_with_a_modality_are_near_the_configured_ones(sky, tables):
    n = sum(table.num_rows for table in tables)
    for column, share in (("splus_cut_I", 0.15), ("desi_flux_b", 0.15), ("specz_z", 0.15), ("gaiaxp_flux", 0.25)):
        present = sum(table.num_rows - table.column(column).null_count for table in tables)
        tolerance = 0.01 + 3 * np.sqrt(share * (1 - share) / n)
        assert abs(present / n - share) < tolerance, (column, present / n)
    for name in ("photz_z", *(f"sdss_psfmag_{band}" for band in "ugriz")):
        assert all(table.column(name).null_count == table.num_rows for table in tables)


def test_a_fraction_of_one_means_every_object(repo, tmp_path):
    every = {"spectrum_fraction": 1.0, "image_fraction": 1.0, "corrupt_rows_per_field": 0}
    data = survey(repo, tmp_path, n_fields=1, n_objects_per_field=40, **every)
    table = pq.read_table(ensure_survey(data, template(data))[0])
    assert table.column("desi_flux_b").null_count == 0
    some_band = np.array([~table.column(c).is_null().to_numpy() for c in COLUMNS if c.startswith("splus_cut")])
    assert some_band.any(0).all() and not some_band.all(), "every object has images; a few lack a band"


def test_sentinels_and_every_kind_of_damage_occur(tables):
    def numbers(name):
        return np.concatenate([table.column(name).to_numpy() for table in tables])

    assert (numbers("mag_pstotal_J0395") == 99).sum() > 10
    assert (numbers("err_mag_pstotal_J0395") == 99).sum() == (numbers("mag_pstotal_J0395") == 99).sum()
    assert (numbers("vista_ksapermag6") == -99).sum() > 10
    assert (numbers("specz_e_z") == -9999).sum() >= 1
    assert numbers("err_mag_pstotal_u").max() > 1e5

    def lists(name):
        return [row for table in tables for row in table.column(name).drop_null().to_numpy()]

    assert sum(np.isinf(row).any() for row in lists("splus_cut_R")) == 2, "5 fields of 2 rows: each of 5 kinds twice"
    assert sum(len(row) != 9216 for row in lists("splus_cut_G")) == 2
    assert sum((row < 0).any() for row in lists("desi_ivar_r")) == 2
    assert sum(len(row) != 2881 for row in lists("desi_flux_z")) == 2
    assert any(np.isnan(row).any() for row in lists("splus_cut_I")), "edges of chips"


def test_the_readers_survive_the_damage_and_count_it(sky, tables):
    cubes = discover(sky, template(sky))
    assert [cube.field for cube in cubes] == [f"SYN-{k:04d}" for k in range(1, 6)]
    scalars = scalar_columns(sky, list(sky.spectra))
    names = scalar_sources(sky, scalars) + image_columns(sky)
    names += [name for group in sky.spectra.values() for name in spectrum_columns(group)]
    found = {"short cutout": 0, "invalid pixels": 0, "short spectrum": 0, "large error": 0, "sentinel": 0, "outside": 0}
    n_images = 0
    for cube in cubes:
        for batch in cube.batches(names):
            images = read_images(batch, sky, cube.field)
            assert np.isfinite(images.flux).all()
            n_images += int(images.present.sum())
            found["short cutout"] += sum(counts["wrong_length"] for counts in images.reasons.values())
            found["invalid pixels"] += sum(counts["invalid_pixels"] for counts in images.reasons.values())
            for group in sky.spectra:
                spectra = read_spectra(batch, sky, group)
                assert np.isfinite(spectra.flux).all() and np.isfinite(spectra.precision).all()
                found["short spectrum"] += spectra.counts["length_mismatch"]
            reasons = read_scalars(batch, sky, scalars).reasons
            found["large error"] += reasons["mag_pstotal_u"]["large_error"]
            found["sentinel"] += reasons["vista_ksapermag6"]["sentinel"]
            found["outside"] += sum(
                counts["out_of_range"] for name, counts in reasons.items() if "phot_" not in name
            )  # fluxes of faint objects may be negative
    assert found["short cutout"] == 2 and found["short spectrum"] == 2
    assert found["invalid pixels"] > 2 and found["large error"] > 2 and found["sentinel"] > 10
    assert found["outside"] == 0, "values outside of the physical ranges of splus.yaml would count as missing"
    assert abs(n_images - 0.15 * 1500) < 45


# --- identities and positions


def test_ids_are_unique_over_fields(sky):
    check_unique_ids(discover(sky, template(sky)))


def test_the_first_field_wraps_through_ra_0(tables):
    ra = tables[0].column("ra").to_numpy()
    assert ((ra > 359) & (ra < 360)).any() and ((ra >= 0) & (ra < 1)).any()
    assert all(((t.column("ra").to_numpy() >= 0) & (t.column("ra").to_numpy() < 360)).all() for t in tables)


def test_neighbouring_fields_share_objects_within_an_arcsecond_and_splits_keep_them_together(sky, tables):
    splits = assign_splits(discover(sky, template(sky)), sky)
    for k in range(1, 5):
        a, b = ((t.column("ra").to_numpy(), t.column("dec").to_numpy()) for t in tables[k - 1 : k + 1])
        east = (a[0][:, None] - b[0][None] + 180) % 360 - 180
        first, second = np.nonzero(np.hypot(east, a[1][:, None] - b[1][None]) < 1 / 3600)
        assert len(first) == 3, "1 % of 300"
        before, after = true_parameters(sky, k - 1), true_parameters(sky, k)
        for name in ("kind", "mag_r", "redshift", "temperature"):
            np.testing.assert_array_equal(before[name][first], after[name][second], "one object, seen twice")
        assert (
            tables[k - 1].column("mag_pstotal_r").to_numpy()[first]
            != tables[k].column("mag_pstotal_r").to_numpy()[second]
        ).all(), "with noise of its own"
        for i, j in zip(first, second, strict=True):
            assert splits[f"SYN-{k:04d}"][i] == splits[f"SYN-{k + 1:04d}"][j]


# --- truth against what is written


def test_the_truth_agrees_with_the_columns(sky, tables):
    pull, scatter = [], []
    for field, table in zip(("SYN-0001", "SYN-0002", 2, 3, 4), tables, strict=True):
        p = true_parameters(sky, field)
        z, error = table.column("specz_z").to_numpy(), table.column("specz_e_z").to_numpy()
        pull.append(((z - p["redshift"]) / error)[error > 0])
        scatter.append(table.column("gaia_teff_gspphot").to_numpy() - p["temperature"])
        np.testing.assert_allclose(p["ra"], table.column("ra").to_numpy())
    pull, scatter = np.concatenate(pull), np.concatenate(scatter)
    scatter = scatter[np.isfinite(scatter)]
    assert len(pull) > 100 and abs(pull.std() - 1) < 0.2 and np.abs(pull).max() < 5
    assert len(scatter) > 100 and abs(scatter.std() - 95) < 15 and abs(scatter.mean()) < 20
