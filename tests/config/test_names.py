"""Names that become folders stay one folder; nothing is made elsewhere before they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from astromodal.config.checks.names import check_name, file_name
from astromodal.config.schema import DataConfig
from astromodal.data.datacube import discover
from astromodal.errors import ConfigError, DataError
from astromodal.runs.run import RunContext
from tests.pipeline.conftest import launch_stage

WRONG = ["../../x", "/tmp/x", "..", ".", "", "a/b", "a\\b", " a", "a\x1b[2J", "a\u202eb", "a\nb", "a\0b", "é" * 101]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_one_folder_is_refused_in_one_printable_line(name):
    with pytest.raises(ConfigError, match="name of one folder") as caught:
        check_name(name, "name")
    assert str(caught.value).isprintable()
    assert "/" not in file_name(name) and "\\" not in file_name(name)


@pytest.mark.parametrize("name", ["default", "2026-11-30_a", "été", "loss=2", "a" * 200, ".hidden", "...", "a b"])
def test_names_of_one_folder_stay(name):
    assert check_name(name, "name") == name


@pytest.mark.parametrize(
    ("stage", "argument", "variable"),
    [
        ("train_lm", "name=../../x", None),
        ("encode", "tokenizer_id=../../../x", None),
        ("train_tokenizers", "data.name=../x", None),
        ("train_lm", "-m", "/tmp/absolute"),
    ],
)
def test_nothing_is_made_outside(stage, argument, variable, tmp_path, monkeypatch):
    here = tmp_path / "a" / "b" / "c"
    here.mkdir(parents=True)
    monkeypatch.delenv("ASTROMODAL_RUN_ID", raising=False)
    if variable is not None:
        monkeypatch.setenv("ASTROMODAL_RUN_ID", variable)
    arguments = [argument] if argument else []
    assert "name of one folder" in launch_stage(stage, *arguments, "tracking=off", cwd=here).error()
    made = [p for p in tmp_path.rglob("*") if p not in (here, *here.parents)]
    assert [p for p in made if here not in p.parents] == [] and not any(p.is_file() for p in made), made


def test_a_run_in_a_users_own_code_stays_in_its_folder_too(tmp_path):
    for changes in ({"name": "../x"}, {"run_id": "/tmp/x"}):
        with pytest.raises(ConfigError, match="name of one folder"):
            RunContext.open({"paths": {"runs": str(tmp_path)}, "name": "a", "run_id": "1"} | changes, "train_lm")


@pytest.mark.parametrize("field", ["..", "a\x1b]0;x\x07", " a", "a\nb"])
def test_fields_are_named_by_files_whose_names_stay_one_folder(field, tmp_path):
    """The field ``..`` would remove the folder of all tokens before it is encoded."""
    file = tmp_path / f"datacube_{field}.parquet"
    file.write_bytes(b"")
    data = DataConfig()
    with pytest.raises(DataError, match=r"the name of a field.*to repair: rename") as caught:
        discover(data, str(tmp_path / "datacube_{field}.parquet"))
    assert str(caught.value).isprintable() and Path(tmp_path).is_dir()
