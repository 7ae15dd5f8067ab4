"""Datacubes from what archives deliver: the stage ``build_datacubes``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ..config.launching.next_command import chosen_option, next_command
from ..config.reading.containers import to_object
from ..config.schema import Config
from ..cubes import report
from ..cubes.build import build_survey
from ..data import discover
from ..files.io import write_json, write_text
from ..runs import tables
from .wiring import NEXT, begin


def build_datacubes(cfg: DictConfig) -> None:
    """Build the datacube of every field that is not up to date, and report what of each input was found."""
    config = to_object(cfg, Config)
    with begin(cfg, config, "build_datacubes") as run:
        result = build_survey(
            config.data,
            config.cubes,
            config.paths.datacube_template,
            workers=config.hardware.workers,
            log=run.log,
            progress=run.progress,
        )
        for field, summary in result["fields"].items():
            run.add_output(f"datacube_{field}", summary["fingerprint"])
        write_json(run.dir / "cubes.json", {k: v for k, v in result.items() if k not in ("samples", "tiles")})
        write_text(run.dir / "cubes.txt", report.text(result) + "\n")
        run.tracker.summary(
            {"rows": result["rows"], "seconds": result["seconds"]} | tables.flatten(result["inputs"], "")
        )
        run.log.info("%s", report.text(result))
        if drawn := report.plot_sky(result, run.dir / "plots" / "sky.png"):
            run.tracker.image("sky", drawn)
        discover(config.data, config.paths.datacube_template)  # what was written can be read
        run.log.info(
            "datacubes of %d objects in %s; report and plot in %s",
            result["rows"],
            Path(config.paths.datacube_template).parent,
            run.dir,
        )
        run.log.info("next: %s", next_command(cfg, NEXT["build_datacubes"], f"data={chosen_option('data')}"))
