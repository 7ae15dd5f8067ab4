"""Both families of real cubes through all three stages, with other bands, columns and lengths as configuration only.

The numbers of objects are those that the README beside the data states.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from astromodal.ask.catalogue import FLAGS, read_catalogue
from astromodal.files.io import load_npz
from astromodal.tokens import TokenStore

from .conftest import MODEL, Outcome, launch_stage

COMMON = ("tracking=off", "hardware=cpu", "hardware.n_threads=1", "data.splits.val_fraction=0.02")
IMAGE = (
    "tokenizer.image.codec.width=8",
    "tokenizer.image.codec.n_blocks=1",
    "tokenizer.image.codec.training.max_steps=4",
    "tokenizer.image.codec.training.batch_size=8",
    "tokenizer.image.quantizer.n_codes=32",
    "tokenizer.image.quantizer.max_iter=5",
)
SETTINGS = {
    "splus": {
        "train_tokenizers": (
            "tokenizer.scalar.n_bins=64",
            "tokenizer.spectrum.quantizer.n_codes=64",
            "tokenizer.spectrum.quantizer.max_iter=5",
            *IMAGE,
        ),
        "encode": (),
        "train_lm": (*MODEL, "training.max_steps=3"),
    },
    "kids_viking": {
        "train_tokenizers": ("tokenizer.scalar.n_bins=16", *IMAGE),
        "encode": (),
        "train_lm": (*MODEL, "training.max_steps=3"),
    },
}
FOLDERS = {"splus": "splus", "kids_viking": "kids"}
# README: rows per file
ROWS = {
    "splus": {"BOSS3655": 68, "DESI": 30, "GAIAXP": 2815, "SPLUSDR4": 6962, "STRIPE82-0001": 17},
    "kids_viking": {f"KIDS-{letter}": 108 for letter in "ABCD"},
}


class Survey:
    """A survey after its three stages."""

    def __init__(self, name: str, folder: Path, root: Path) -> None:
        self.name, self.folder = name, folder
        self.data = (f"data={name}", f"data.root={root / FOLDERS[name]}", *COMMON)
        self.outcomes: dict[str, Outcome] = {}
        for stage, settings in SETTINGS[name].items():
            outcome = launch_stage(stage, *self.data, *settings, cwd=folder)
            assert outcome.returncode == 0, outcome.stderr
            self.outcomes[stage] = outcome
        self.store = folder / "artifacts" / name / "default"
        self.tokens = {tokens.field: tokens for tokens in TokenStore(self.store)}
        (self.run,) = (folder / "runs" / "train_lm" / "default").iterdir()
        self.summary = json.loads((self.run / "summary.json").read_text())

    def present(self, field: str, group: str) -> int:
        return int(np.asarray(self.tokens[field].spectra[group].present).sum())

    def images(self, field: str) -> int:
        return int(np.asarray(self.tokens[field].image["present"]).sum())

    def column(self, field: str, name: str, member: str = "present") -> int:
        tokens = self.tokens[field]
        return int(np.asarray(tokens.scalar[member])[:, tokens.columns.index(name)].sum())


@pytest.fixture(scope="module")
def splus(realdata: Path, tmp_path_factory) -> Survey:
    return Survey("splus", tmp_path_factory.mktemp("splus"), realdata)


@pytest.fixture(scope="module")
def kids(realdata: Path, tmp_path_factory) -> Survey:
    return Survey("kids_viking", tmp_path_factory.mktemp("kids"), realdata)


@pytest.mark.parametrize("name", ["splus", "kids"])
def test_every_object_is_encoded(name: str, request: pytest.FixtureRequest):
    survey = request.getfixturevalue(name)
    assert {field: len(tokens) for field, tokens in survey.tokens.items()} == ROWS[survey.name]
    assert np.isfinite(survey.summary["model"]["error_scalar"]) and np.isfinite(survey.summary["model"]["score"])
    assert survey.summary["steps"] == 3
    assert "Warning:" not in "".join(outcome.stderr for outcome in survey.outcomes.values())


def test_spectra_are_present_where_the_files_have_them(splus: Survey):
    for group in ("desi_b", "desi_r", "desi_z"):
        # log-linear, of other lengths, rebinned; one object has an arm without a single pixel that is not masked
        assert splus.present("BOSS3655", group) == (68 if group == "desi_r" else 67)
        assert splus.present("DESI", group) == 30  # 26 of them without ivar
        for field in ("GAIAXP", "SPLUSDR4", "STRIPE82-0001"):
            assert splus.present(field, group) == 0
    for group in ("gaiaxp_bp", "gaiaxp_rp"):
        assert splus.present("GAIAXP", group) == 2815
        assert sum(splus.present(field, group) for field in ROWS["splus"]) == 2815


def test_images_are_present_where_the_files_have_them(splus: Survey, kids: Survey):
    images = {field: splus.images(field) for field in ROWS["splus"]}
    # one 256 x 256 frame: 6 cutouts are complete, the others have NaN beyond its edge
    assert 6 <= images.pop("STRIPE82-0001") <= 17
    assert set(images.values()) == {0}
    for field in ROWS["kids_viking"]:
        assert kids.images(field) == 108


def test_magnitudes_sentinels_and_redshifts_are_those_of_the_files(splus: Survey):
    sentinels = {
        "u": 129,
        "J0378": 88,
        "J0395": 172,
        "J0410": 96,
        "J0430": 49,
        "g": 6,
        "J0515": 15,
        "J0660": 7,
        "J0861": 13,
        "i": 1,
        "z": 1,
        "r": 0,
    }
    for band, n in sentinels.items():
        assert splus.column("SPLUSDR4", f"mag_pstotal_{band}", "nondetected") == n, band
        seen = splus.column("SPLUSDR4", f"mag_pstotal_{band}")
        assert 6962 - n - 5 <= seen <= 6962, band
    cells = sum(splus.column("STRIPE82-0001", f"mag_pstotal_{band}", "nondetected") for band in sentinels)
    assert cells == 20
    assert splus.column("DESI", "specz_z") == 30
    assert 66 <= splus.column("BOSS3655", "specz_z") <= 68
    assert splus.column("GAIAXP", "mag_pstotal_r") == 2815
    assert "photz_z" not in splus.tokens["SPLUSDR4"].columns
    for field in ROWS["splus"]:  # in the layout, null in these files: never observed, hence no column of tokens
        columns = splus.tokens[field].columns
        assert not any(name.startswith(("gaia_", "vista_")) and splus.column(field, name) for name in columns)


def test_the_nine_bands_have_no_spectra_and_no_positions(kids: Survey):
    assert not kids.tokens["KIDS-A"].spectra
    assert not (kids.store / "tokens" / "spectrum_tokens").exists()
    log = (kids.run / "train_lm.log").read_text()
    assert "error_spectrum" not in kids.summary["model"] and "error_image" in kids.summary["model"]
    assert "Traceback" not in log
    packed = load_npz(next((kids.store / "sequences").iterdir()) / "train.npz")
    assert len(packed["offsets"]) - 1 > 250


def test_objects_are_not_written_to_the_repository_or_beside_the_data(splus: Survey, kids: Survey, realdata: Path):
    for folder in ("splus", "kids"):
        assert {p.suffix for p in (realdata / folder).iterdir()} == {".parquet"}


def test_a_subset_of_real_fields_is_one_override(splus: Survey):
    outcome = launch_stage(
        "train_lm",
        *splus.data,
        *SETTINGS["splus"]["train_lm"],
        "name=subset",
        "data.fields=[DESI,BOSS3655]",
        cwd=splus.folder,
    )
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize(
    ("name", "field", "asked", "fraction"),
    [("splus", "DESI", "desi_b", 1), ("kids", "KIDS-A", "image", 0.2)],  # a cutout is 576 tokens, one after another
)
def test_real_objects_are_predicted_with_units_and_flags(name: str, field: str, asked: str, fraction: float, request):
    survey = request.getfixturevalue(name)
    arguments = (
        f"data.fields=[{field}]",
        f"evaluate.predict=[scalar,{asked}]",
        "evaluate.given=[before]",
        "evaluate.n_samples=2",
        "evaluate.batch_size=256",
        f"evaluate.fraction={fraction}",
        "run_id=real",
        "evaluate.judge.baselines=[marginal]",
    )
    outcome = launch_stage("evaluate", *survey.data, *arguments, cwd=survey.folder)
    assert outcome.returncode == 0, outcome.stderr
    table, meaning = read_catalogue(survey.folder / "runs" / "evaluate" / "default" / "real")
    tokens = survey.tokens[field]
    ids, everyone = table["id"].to_pylist(), tokens.ids.tolist()
    assert ids == [i for i in everyone if i in set(ids)] and len(everyone) == ROWS[survey.name][field]
    assert ids == everyone if fraction == 1 else 0.05 * len(everyone) < len(ids) < 0.3 * len(everyone)
    predicted = [n for n, question in meaning["questions"].items() if question["modality"] == "scalar"]
    assert len(predicted) > 5 and all(f"{n}_q16" in table.column_names for n in predicted)
    for n in predicted:
        values = table[f"{n}_mean"].to_numpy(zero_copy_only=False)
        lacks = table[f"{n}_flag"].to_numpy() & FLAGS["LACKS_GIVEN"] > 0
        assert (np.isfinite(values) == ~lacks).all()
    rows = [row for row in table[f"{asked}_mean"].to_pylist() if row is not None]
    assert len(rows) == len(table) and all(np.isfinite(row).all() for row in rows)
