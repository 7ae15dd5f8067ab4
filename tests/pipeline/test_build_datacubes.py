"""From FITS files to tokens, by the commands that a user types."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from astromodal.config.schema import CubesConfig, DataConfig
from astromodal.cubes import layout
from astromodal.cubes.spectra.reader import check_groups
from astromodal.data.datacube import needed_columns
from tests.conftest import REPO
from tests.cubes import made

from .conftest import TOKENIZERS, Outcome, launch_stage

CUBES = """
root: fits
catalogue: {path: catalogue.fits, id: name, ra: RAJ2000, dec: DEJ2000}
fields: {column: patch}
images: {path: "{tile}_{band}.fits.fz", zero_point_key: MAGZERO}
spectra:
  desi: {path: coadd-*.fits, groups: [desi_b, desi_r], catalogue_id: TARGETID}
"""
RUN = ("--config-dir", "conf", "data=made", "hardware=cpu", "hardware.n_threads=1", "tracking=off")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FITS files of 72 objects in two fields, and the two files of options."""
    folder = tmp_path_factory.mktemp("from_fits")
    root, n = folder / "fits", 72
    made.write_catalogue(root, n)
    ra, dec = made.positions(n)
    flux = np.random.default_rng(3).uniform(500, 3000, n)
    for band in "gr":
        made.write_tile(
            root / f"a_{band}.fits.fz",
            made.RA + 50 / 3600,
            made.DEC + 120 / 3600,
            (ra, dec, flux),
            shape=(560, 400),
            zero_point=25.0,
            compress=True,
        )
    some = np.arange(0, n, 2)
    made.write_desi(root / "coadd-1.fits", 1000 + some, ra[some], dec[some])
    survey = {key: value for key, value in made.DATA.items() if key != "spectra"}
    survey["spectra"] = {name: made.DATA["spectra"][name] for name in ("desi_b", "desi_r")}
    survey["scalars"] = {"mag_r": made.DATA["scalars"]["mag_r"]}
    for group, text in (("data", OmegaConf.to_yaml(OmegaConf.create(survey))), ("cubes", CUBES)):
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / "made.yaml").write_text(text)
    return folder


def run(place: Path, stage: str, *overrides: str) -> Outcome:
    return launch_stage(stage, *RUN, *overrides, cwd=place)


def test_from_fits_to_tokens(place: Path):
    built = run(place, "build_datacubes", "cubes=made")
    assert built.returncode == 0, built.stderr
    folder = next((place / "runs" / "build_datacubes").glob("*/*"))
    assert {"cubes.json", "cubes.txt"} <= {p.name for p in folder.iterdir()} and (
        folder / "plots" / "sky.png"
    ).is_file()
    found = json.loads((folder / "cubes.json").read_text())["inputs"]
    assert found["images.g"]["found"] == 72 and found["spectra.desi"]["matched"] == 36
    record = json.loads((folder / "run.json").read_text())
    assert set(record["outputs"]) == {"datacube_east", "datacube_west"}
    following = shlex.split(re.search(r"next: (python .*)", built.stderr)[1])
    assert Path(following[1]).name == "train_tokenizers.py" and "data=made" in following
    assert not any(word.startswith("cubes") for word in following)
    outcome = launch_stage("train_tokenizers", *following[2:], *TOKENIZERS, cwd=place)
    assert outcome.returncode == 0, outcome.stderr
    outcome = run(place, "encode")
    assert outcome.returncode == 0, outcome.stderr
    said = json.loads(next((place / "runs" / "encode").glob("*/*/encoding.json")).read_text())
    present = {
        name: sum(field["present"].get(name, 0) for field in said["fields"].values())
        for name in said["fields"]["east"]["present"]
    }
    assert said["rows"] == 72 and present["image"] == 72 and present["desi_b"] == present["desi_r"] == 36
    read = json.loads(next((place / "runs" / "encode").glob("*/*/run.json")).read_text())["inputs"]
    assert {name: read[name] for name in record["outputs"]} == record["outputs"]  # the cubes that were built


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cubes.catalogue.path=null"], "cubes.catalogue.path="),
        (["data=synthetic"], "the synthetic sky"),
        (["cubes.fields.healpix_order=3"], "cubes.fields.column or cubes.fields.healpix_order"),
        (["cubes.chunk_row=3"], "did you mean cubes.chunk_rows?"),
        (["cubes.spectra.desi.format=boss"], "desi, sdss, table"),
    ],
)
def test_a_mistake_is_one_line(place: Path, overrides: list[str], expected: str):
    line = run(place, "build_datacubes", "cubes=made", *overrides).error()
    assert expected in line


def test_the_options_of_cubes_fit_the_survey_they_are_for():
    conf = REPO / "conf"
    data = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(conf / "data" / "splus.yaml"))
    )
    for path in sorted((conf / "cubes").glob("*.yaml")):
        option = OmegaConf.load(path)
        option.pop("defaults", None)
        cubes = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CubesConfig), option))
        assert {*layout.image_columns(data, cubes)} <= {*data.images.bands}
        assert {*cubes.catalogue.columns} <= {*needed_columns(data)}
        for name, source in cubes.spectra.items():
            check_groups(name, source, data.spectra)


def test_without_astropy_healpix_the_repair_is_said(place: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "astropy_healpix" else find(name, *a)
    )
    line = run(
        place, "build_datacubes", "cubes=made", "cubes.fields.column=null", "cubes.fields.healpix_order=3"
    ).error()
    assert "pip install astropy_healpix" in line and "cubes.fields.column" in line
