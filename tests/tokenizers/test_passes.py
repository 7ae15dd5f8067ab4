"""Tokenizers are the same to the bit whoever reads the survey, in whatever order and however fields are divided."""

from __future__ import annotations

from pathlib import Path

import pytest

from astromodal.config.schema import KMeansConfig, ScalarTokenizerConfig, SpectrumTokenizerConfig, WorkersConfig
from astromodal.parallel import each as each_module
from astromodal.tokenizers import passes, scalar
from astromodal.tokenizers.scalar import ScalarTokenizer
from astromodal.tokenizers.spectrum import tokenizer as spectrum
from astromodal.tokenizers.spectrum.tokenizer import SpectrumTokenizer

ALL = ("scalar", "spectrum")


def fitted(survey, folder: Path, workers: WorkersConfig | None, names=ALL) -> tuple[dict[str, bytes], list]:
    """Content of the tokenizers' files, and their reports; both samples are smaller than what there is."""
    data, cubes, splits = survey
    means = KMeansConfig(n_codes=16, max_fit_rows=80)
    made = {
        "scalar": ScalarTokenizer(ScalarTokenizerConfig(n_bins=16, max_fit_values=90)),
        "spectrum": SpectrumTokenizer(SpectrumTokenizerConfig(patch_size=25, groups=["blue"], quantizer=means)),
    }
    files, reports = {}, []
    for name in names:
        one = made[name]
        one.workers = workers
        one.fit(cubes, splits, data, seed=3)
        one.save(folder / name)
        files |= {p.name: p.read_bytes() for p in (folder / name).glob("*") if p.suffix in (".npz", ".joblib")}
        reports.append(str(one.report_))
    return files, reports


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Fields of a few parts each."""
    monkeypatch.setattr(scalar, "LIGHT_ROWS", 100)
    monkeypatch.setattr(spectrum, "HEAVY_ROWS", 100)


@pytest.fixture(scope="module")
def alone(survey, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(scalar, "LIGHT_ROWS", 100)
        monkeypatch.setattr(spectrum, "HEAVY_ROWS", 100)
        return fitted(survey, tmp_path_factory.mktemp("alone"), None)


@pytest.mark.parametrize("n_jobs, names", [(2, ALL), (7, ALL[:1])])
def test_processes_fit_the_same_tokenizers(survey, tmp_path, alone, n_jobs, names):
    files, reports = fitted(survey, tmp_path, WorkersConfig(n_jobs=n_jobs), names)
    assert files and files == {name: alone[0][name] for name in files} and reports == alone[1][: len(names)]


def test_parts_that_come_in_the_wrong_order_change_nothing(survey, tmp_path, alone, monkeypatch):
    each, asked = each_module.each, []

    def backwards(function, jobs, *arguments, **options):
        asked.append(len(jobs))
        return iter(list(each(function, list(jobs)[::-1], *arguments, **options)))

    monkeypatch.setattr(passes, "each", backwards)
    assert fitted(survey, tmp_path, None) == alone and min(asked) > 2


def test_how_fields_are_divided_changes_no_tokenizer(survey, tmp_path, alone, monkeypatch):
    monkeypatch.setattr(scalar, "LIGHT_ROWS", 10_000)
    monkeypatch.setattr(spectrum, "HEAVY_ROWS", 10_000)
    assert fitted(survey, tmp_path, None)[0] == alone[0]
