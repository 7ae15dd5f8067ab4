"""Spectrum tokens judged against the truth: what is left of spectra, lines and redshifts, at how many tokens.

    python benchmarks/spectrum_tokens.py --work W                                          # today's default
    python benchmarks/spectrum_tokens.py --work W --variant tokenizer.spectrum.patch_size=16  # overrides; repeatable
    ASTROMODAL_REALDATA=... python benchmarks/spectrum_tokens.py --work W --sky real

``--sky synthetic``: DESI-like spectra of 4000 objects, three quarters to fit on, whose noiseless spectra are known.
``--sky real``: DESI and BOSS spectra of ``$ASTROMODAL_REALDATA/splus``, fitted on two thirds and judged on the other
third, three times, so that each is judged once; chi^2 where errors are known, and redshifts against the catalogue's.

``--uncoded`` judges spectra as they are denoised, before any code: what denoising alone costs.

A variant is a line of overrides of ``train_tokenizers.py tokenizer=spectrum``, ``tokenizer=recommended`` among them.
Seconds and milliseconds are of CPU, one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tokenizer_variants import WITHOUT_RUN, measure_variants, variants_parser

from astromodal.config.checks.validate import validate
from astromodal.config.launching.register import conf_dir, register
from astromodal.config.schema import Config
from astromodal.data import assign_splits, discover, ensure_survey
from astromodal.data.columns import numbers
from astromodal.data.datacube import Datacube
from astromodal.data.spectra import SpectrumBatch, grid, read_spectra, spectrum_columns
from astromodal.data.splits import TRAIN, VAL
from astromodal.data.synthetic import sed, spectra, true_parameters
from astromodal.metrics.rate import perplexity
from astromodal.metrics.spectra import SNR_EDGES
from astromodal.tokenizers import SpectrumTokenizer
from astromodal.tokenizers.spectrum import fidelity
from astromodal.tokenizers.spectrum.fidelity import Arm
from astromodal.tokenizers.spectrum.groups import Clean, cleaned

GROUPS = ("desi_b", "desi_r", "desi_z")
COMMON = (
    *WITHOUT_RUN,
    "tokenizer.scalar=null",
    "tokenizer.image=null",
    f"tokenizer.spectrum.groups=[{','.join(GROUPS)}]",
)
SKY = (
    "data=synthetic",
    "data.synthetic.n_objects_per_field=500",
    "data.synthetic.spectrum_fraction=1",
    "data.synthetic.image_fraction=0",
    "data.synthetic.xp_fraction=0",
    "data.splits.val_fraction=0.25",
    "data.splits.test_fraction=0",
)
N_FOLDS = 3
Parts = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # as encode_parts gives them


def configured(overrides: Sequence[str]) -> Config:
    """The configuration that ``train_tokenizers.py`` would have, checked as there."""
    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        cfg = compose("train_tokenizers", [*COMMON, *overrides])
    validate(cfg, "train_tokenizers")
    return OmegaConf.to_object(cfg)


def survey(arguments: argparse.Namespace, variant: Sequence[str]) -> Config:
    chosen = () if any(v.startswith("tokenizer=") for v in variant) else ("tokenizer=all",)
    if arguments.sky == "synthetic":
        folder = arguments.work.absolute() / f"sky{arguments.fields}"
        folder.mkdir(parents=True, exist_ok=True)
        place = (f"data.synthetic.n_fields={arguments.fields}", f"data.root={folder}")
        return configured((*chosen, *SKY, *place, *variant))
    root = os.environ.get("ASTROMODAL_REALDATA")
    if not root or not (Path(root) / "splus").is_dir():
        raise SystemExit(f"error: set ASTROMODAL_REALDATA to a folder with splus/, got {root!r}")
    cubes = "data.fields=[BOSS3655,DESI]"
    return configured((*chosen, "data=splus", f"data.root={Path(root).absolute() / 'splus'}", cubes, *variant))


class Judged:
    """One variant's held-out objects: what was read, what was decoded, and what it took."""

    coded = True

    def __init__(self, config: Config) -> None:
        self.config, self.fit_s, self.encode_s, self.n_encoded = config, 0.0, 0.0, 0
        self.arms: dict[str, list[dict[str, np.ndarray]]] = {group: [] for group in GROUPS}
        self.objects: list[dict[str, np.ndarray]] = []
        self.usage: dict[str, Any] = {}

    def fit(self, cubes: Sequence[Datacube], splits: dict[str, np.ndarray]) -> None:
        """Fit on the training rows; encode and decode the validation rows."""
        tokenizer, started = SpectrumTokenizer(self.config.tokenizer.spectrum), time.process_time()
        if self.coded:
            tokenizer.fit(cubes, splits, self.config.data, None, self.config.seed)
        self.fit_s += time.process_time() - started
        for cube in cubes:
            self._judge(tokenizer, cube, np.flatnonzero(splits[cube.field] == VAL))

    def _judge(self, tokenizer: SpectrumTokenizer, cube: Datacube, rows: np.ndarray) -> None:
        data = self.config.data
        mask = np.isin(np.arange(cube.n_rows), rows)
        columns = [c for group in GROUPS for c in spectrum_columns(data.spectra[group])] + ["specz_z", "source"]
        for table in cube.batches(columns, rows=100, row_mask=mask):
            batches = {group: read_spectra(table, data, group) for group in GROUPS}
            seen = np.logical_and.reduce([batch.present for batch in batches.values()])
            for group, batch in batches.items():
                self._arm(tokenizer, group, batch, seen)
            source = np.array([str(s) for s in table.column("source").to_pylist()])[seen]
            self.objects.append(
                {
                    "row": np.asarray(table.rows)[seen],
                    "redshift": numbers(table.column("specz_z"))[seen].astype(np.float64),
                    "field": np.full(seen.sum(), cube.field),
                    "class": np.where(
                        np.char.find(source, "QSO") >= 0,
                        "quasar",
                        np.where(np.char.find(source, "GALAXY") >= 0, "galaxy", "other"),
                    ),
                }
            )

    def _arm(self, tokenizer: SpectrumTokenizer, group: str, batch: SpectrumBatch, seen: np.ndarray) -> None:
        started = time.process_time()
        smoothed = self.config.tokenizer.spectrum.denoise
        parts = tokenizer.encode_parts(group, batch) if self.coded else cleaned(batch, smoothed)
        self.encode_s += time.process_time() - started
        self.n_encoded += int(batch.present.sum()) if group == GROUPS[0] else 0
        if isinstance(parts, Clean):
            decoded = parts.flux[seen]
        else:
            decoded = self._decoded(tokenizer, group, parts, batch.present, seen)
        scale, known = batch.scale[seen, None], batch.has_ivar[seen]
        ivar = np.square(batch.precision[seen].astype(np.float64) / scale)
        self.arms[group].append(
            {
                "flux": batch.flux[seen] * scale,
                "ivar": ivar,
                "decoded": decoded * scale,
                "known": np.broadcast_to(known[:, None], ivar.shape),
            }
        )

    def _decoded(
        self, tokenizer: SpectrumTokenizer, group: str, parts: Parts, present: np.ndarray, seen: np.ndarray
    ) -> np.ndarray:
        """Flux of the objects ``seen``, in units of their scales; the codes of all that are present are counted."""
        tokens = [codes for codes, _, _ in parts.values()]
        for part, codes in zip(parts, tokens, strict=True):
            size = len(tokenizer.codebooks()[part].entries)
            counts = np.bincount(codes[present].ravel(), minlength=size)
            length, before = self.usage.get(part, (codes.shape[1], 0))
            self.usage[part] = length, before + counts if np.shape(before) in ((), counts.shape) else before
        return tokenizer.decode_parts(group, [codes[seen] for codes in tokens])

    def together(self) -> tuple[dict[str, Arm], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """All held-out objects: their arms, what is known of them, and where their noise is known, per arm."""
        objects = {name: np.concatenate([o[name] for o in self.objects]) for name in self.objects[0]}
        arms, known = {}, {}
        for group, batches in self.arms.items():
            stack = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
            known[group] = stack.pop("known")
            arms[group] = Arm(grid(self.config.data.spectra[group]), **stack)
        return arms, objects, known

    def costs(self) -> dict[str, Any]:
        used = {part: perplexity(counts) / len(counts) for part, (_, counts) in self.usage.items()}
        return {
            "tokens": sum(length for length, _ in self.usage.values()),
            "fit_s": self.fit_s,
            "encode_ms": 1e3 * self.encode_s / max(self.n_encoded, 1),
            "perplexity_over_size": used,
            "sizes": {part: len(counts) for part, (_, counts) in self.usage.items()},
        }


def synthetic(config: Config, judged: Judged) -> dict[str, Any]:
    """Figures of held-out objects of the synthetic sky, against the truth."""
    ensure_survey(config.data, config.paths.datacube_template)
    cubes = discover(config.data, config.paths.datacube_template)
    judged.fit(cubes, assign_splits(cubes, config.data))
    arms, objects, _ = judged.together()
    true = {}
    for field in dict.fromkeys(objects["field"]):
        p, rows = true_parameters(config.data, str(field)), objects["row"][objects["field"] == field]
        for name, values in p.items():
            true.setdefault(name, []).append(values[rows])
    true = {name: np.concatenate(values) for name, values in true.items()}
    arms = {g: Arm(a.wave, a.flux, a.ivar, a.decoded, spectra.noiseless_arm(g[-1], true)) for g, a in arms.items()}
    galaxies = np.flatnonzero(true["kind"] == sed.GALAXY)
    own, z = {group: arm.of(galaxies) for group, arm in arms.items()}, true["redshift"][galaxies]
    return {
        "pixels": fidelity.pixel_errors(arms),
        "lines": fidelity.lines_kept(own, z, sed.NEBULAR),
        "colour": fidelity.colours_kept(arms),
        "redshifts": {"galaxy": fidelity.galaxy_redshifts_kept(own, z)},
        "costs": judged.costs(),
    }


def real(config: Config, judged: Judged) -> dict[str, Any]:
    """Figures of real spectra, each judged once by tokenizers that were not fitted on it."""
    cubes = discover(config.data, config.paths.datacube_template)
    for fold in range(N_FOLDS):
        splits = {c.field: np.where(np.arange(c.n_rows) % N_FOLDS == fold, VAL, TRAIN) for c in cubes}
        judged.fit(cubes, splits)
    arms, objects, known = judged.together()
    with_errors = {g: Arm(a.wave, a.flux, np.where(known[g], a.ivar, 0.0), a.decoded) for g, a in arms.items()}
    redshifts = {}
    for name, judge in (
        ("galaxy", partial(fidelity.galaxy_redshifts_kept, high=1.7)),
        ("quasar", fidelity.quasar_redshifts_kept),
    ):
        rows = np.flatnonzero((objects["class"] == name) & np.isfinite(objects["redshift"]))
        redshifts[name] = judge({g: arm.of(rows) for g, arm in arms.items()}, objects["redshift"][rows])
    return {"pixels": fidelity.pixel_errors(with_errors), "redshifts": redshifts, "costs": judged.costs()}


def line_of(name: str, found: dict[str, Any]) -> str:
    """The figures of a variant that decide, as a row of a table."""
    pixels, costs = found["pixels"], found["costs"]
    n, of_data, of_decoded = (
        sum(r[k] for r in found["redshifts"].values()) for k in ("n", "n_from_data", "n_from_decoded")
    )
    bright = [r for r in pixels if r["from"] == SNR_EDGES[-2]]
    cells = [
        name,
        f"{costs['tokens']:.0f}",
        f"{pixels[-1]['chi2_pooled']:.2f}",
        f"{bright[0]['chi2_median']:.2f}" if bright else "-",
    ]
    if "lines" in found:
        cells.append(" ".join(f"{r['error_over_noise']:.2f}" for r in pixels[:-1]))
        cells.append(" ".join(f"{r['kept']:.2f} ({r['scatter']:.2f})" for r in found["lines"]))
        cells.append(f"{found['colour']['scatter']:.4f}")
    cells += [f"{of_decoded} of {n}", f"{of_decoded / max(of_data, 1):.3f}"]
    cells.append(" ".join(f"{u:.2f}" for u in costs["perplexity_over_size"].values()))
    cells += [f"{costs['encode_ms']:.1f}", f"{costs['fit_s']:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = variants_parser(__doc__, ("synthetic", "real"))
    parser.add_argument("--uncoded", action="store_true", help="judge what denoising leaves, before any code")
    parser.add_argument("--fields", type=int, default=8, help="of 500 objects, of the synthetic sky")
    arguments = parser.parse_args()
    head = ["overrides", "tokens", "chi2", "median S/N>15", "redshifts", "over original", "codes in use", "ms", "fit s"]
    if arguments.sky == "synthetic":
        head[4:4] = ["error / noise by S/N", "line flux kept (scatter)", "colour"]

    def measure(overrides: list[str], path: Path) -> dict:
        config = survey(arguments, overrides)
        judged = Judged(config)
        judged.coded = not arguments.uncoded
        return (synthetic if arguments.sky == "synthetic" else real)(config, judged)

    measure_variants(arguments, head, measure, lambda name, found: [line_of(name, found)])


if __name__ == "__main__":
    main()
