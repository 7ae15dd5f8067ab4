"""A tiny survey that was trained on and asked by ``evaluate.py`` once, for everything that is loaded or exported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from astromodal import load, stages
from astromodal.bundles.model import Model
from astromodal.judge.judge import Judgement
from tests.tiny_survey import RUN_ID, configuration, undrawn, write_survey

HARDWARE = {"device": "cpu", "hardware": {"n_threads": 1}}
PNG = b"\x89PNG\r\n\x1a\n a picture"
QUANTILES = [0.025, 0.16, 0.84, 0.975]


@dataclass(frozen=True)
class Trained:
    """Where things are."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "train_lm" / "default" / RUN_ID

    @property
    def catalogue(self) -> Path:
        return self.folder / "runs" / "evaluate" / "default" / RUN_ID / "catalogue.parquet"

    def cube(self, k: int = 0) -> Path:
        return self.folder / "cubes" / f"datacube_F{k}.parquet"


IMAGE = (  # several codes per position, and fluxes of rings
    "tokenizer.image.codec.training.max_steps=4",
    "tokenizer/image/quantizer=residual_kmeans",
    "tokenizer.image.quantizer.n_stages=2",
    "tokenizer.image.quantizer.n_codes=16",
    "tokenizer.image.flux_radii=[2,4]",
)


def draw(found: Judgement, folder: Path) -> None:
    """One plot in place of ten, which take most of the time."""
    folder.mkdir()
    (folder / "predicted.png").write_bytes(PNG)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Run in its folder: the paths of its configuration are relative."""
    folder = tmp_path_factory.mktemp("bundles") / "survey"
    write_survey(folder, n=70)
    with undrawn(folder):
        for stage, overrides in (
            ("train_tokenizers", IMAGE),
            ("encode", ()),
            ("train_lm", ("sequence=random", "training.max_steps=12")),
            (
                "evaluate",
                (
                    "evaluate.predict=[scalar,desi_b]",
                    "evaluate.embeddings=[mean,last]",
                    "evaluate.n_samples=2",
                    "evaluate.familiarity=true",
                    "evaluate.posterior=true",
                    "evaluate.judge.n_resamples=5",
                    "evaluate.judge.baselines=[marginal]",
                ),
            ),
        ):
            with mock.patch("astromodal.judge.report.draw", draw):
                getattr(stages, stage)(configuration(stage, folder, *overrides))
        yield Trained(folder)


@pytest.fixture(scope="session")
def model(trained: Trained) -> Model:
    return load(trained.run, **HARDWARE)
