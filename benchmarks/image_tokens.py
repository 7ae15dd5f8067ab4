"""Image tokens judged by what astronomers measure on cutouts, against the truth or the data, at how many tokens.

    python benchmarks/image_tokens.py --work W                                              # today's default
    python benchmarks/image_tokens.py --work W --variant tokenizer.image.codec.latent_channels=4  # repeatable
    ASTROMODAL_REALDATA=... python benchmarks/image_tokens.py --work W --sky real

``--sky synthetic``: cutouts in twelve bands of ``--objects`` objects, three quarters to fit on, whose noiseless cutouts
are known; errors hold the noise of sky and photons. Two lines a variant: against the truth, and against the data.
``--sky real``: cutouts in nine bands of ``$ASTROMODAL_REALDATA/kids``, a quarter of them held out, against the data;
errors hold the noise of the sky, all that is known. ``--sky splus``: the 17 in twelve bands of
``splus``, half of them held out.

``W/<sky>_<number of the variant>.png`` shows the brightest held-out cutouts in the middle band, and what is decoded.

A variant is a line of overrides of ``train_tokenizers.py tokenizer=image``; ``(exact latents)`` is what the codec alone
keeps, without its quantizer. Seconds and milliseconds are of CPU, one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
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
from astromodal.data.datacube import Datacube
from astromodal.data.images import ImageBatch, elliptical_mask
from astromodal.data.photometry import sky_statistics
from astromodal.data.splits import VAL
from astromodal.data.synthetic.cutouts import pixel_noise
from astromodal.data.synthetic.truth import field_index
from astromodal.data.synthetic.write import CHUNK, true_cutouts
from astromodal.metrics.cutouts import QUANTITIES, Measured, kept, measure, weight_width
from astromodal.tokenizers import ImageTokenizer
from astromodal.tokenizers.image.fit import stream

N_SHOWN = 8  # cutouts in a picture

COMMON = (
    "tokenizer=image",
    *WITHOUT_RUN,
    "data.splits.val_fraction=0.25",
    "data.splits.test_fraction=0",
    "data.batch_rows=64",
)
SKY = (
    "data=synthetic",
    "data.synthetic.n_fields=2",
    "data.synthetic.image_fraction=1",
    "data.synthetic.spectrum_fraction=0",
    "data.synthetic.xp_fraction=0",
)
REAL = {  # folder, and what reads it
    "real": ("kids", "data=kids_viking"),
    # one frame of two arcminutes: cells of half of one
    "splus": (
        "splus",
        "data=splus",
        "data.fields=[STRIPE82-0001]",
        "data.splits.cell_deg=0.01",
        "data.splits.val_fraction=0.5",
    ),
}


def configured(arguments: argparse.Namespace, variant: Sequence[str]) -> Config:
    """The configuration that ``train_tokenizers.py`` would have, checked as there."""
    if arguments.sky == "synthetic":
        folder = arguments.work.absolute() / f"sky{arguments.objects}"
        folder.mkdir(parents=True, exist_ok=True)
        survey = (*SKY, f"data.synthetic.n_objects_per_field={arguments.objects // 2}", f"data.root={folder}")
    else:
        root = os.environ.get("ASTROMODAL_REALDATA")
        name = REAL[arguments.sky][0]
        if not root or not (Path(root) / name).is_dir():
            raise SystemExit(f"error: set ASTROMODAL_REALDATA to a folder with {name}/, got {root!r}")
        survey = (f"data.root={Path(root).absolute() / name}", *REAL[arguments.sky][1:])
    register()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        cfg = compose("train_tokenizers", [*COMMON, *survey, *variant])
    validate(cfg, "train_tokenizers")
    return OmegaConf.to_object(cfg)


class Truths:
    """Noiseless cutouts of a field, row group by row group, the last one kept."""

    def __init__(self, config: Config) -> None:
        self.config, self._at = config, None

    def of(self, field: str, rows: np.ndarray) -> np.ndarray:
        """``(m, C, S, S)``, nanomaggies per pixel."""
        parts = []
        for chunk in np.unique(rows // CHUNK):
            if self._at != (field, chunk):
                data = self.config.data
                self._group, self._rows = true_cutouts(data.synthetic, field_index(data, field), int(chunk))
                self._at = field, chunk
            parts.append(self._group[np.searchsorted(self._rows, rows[rows // CHUNK == chunk])])
        return np.concatenate(parts)


class Judged:
    """One variant's held-out objects: measured in the data, the truth, what is decoded and what the codec keeps."""

    def __init__(self, config: Config) -> None:
        self.config, self.encode_s, self.n_encoded = config, 0.0, 0
        self.measured: dict[str, list[Measured]] = {}
        self.shown: dict[str, list[np.ndarray]] = {}  # middle band
        self.truths = Truths(config) if config.data.synthetic is not None else None

    def fit(self, cubes: Sequence[Datacube], splits: dict[str, np.ndarray]) -> None:
        """Fit on the training rows; encode and decode the validation rows."""
        self.tokenizer, started = ImageTokenizer(self.config.tokenizer.image, self.config.hardware), time.process_time()
        self.report = self.tokenizer.fit(cubes, splits, self.config.data, None, self.config.seed)
        self.fit_s = time.process_time() - started
        held_out = {name: split == VAL for name, split in splits.items()}
        for field, rows, batch in stream(cubes, held_out, self.config.data):
            used = np.flatnonzero(self.tokenizer.usable(batch))
            if len(used):
                self._judge(field, rows[used], batch.select(used))

    def _judge(self, field: str, rows: np.ndarray, batch: ImageBatch) -> None:
        started = time.process_time()
        tokens = self.tokenizer.encode(batch)
        self.encode_s += time.process_time() - started
        self.n_encoded += len(rows)
        inside = elliptical_mask(batch.a, batch.b, batch.theta, batch.size, **self.tokenizer.ellipse)
        level, sigma = sky_statistics(batch.flux, batch.valid, inside)
        width = weight_width(batch.a, batch.b, batch.size)
        parts = [codes for codes, _ in self.tokenizer.by_part(tokens).values()]
        images = {
            "data": batch.flux - level[..., None, None],
            "decoded": self.tokenizer.decode_parts(parts).flux,
            "exact": self.tokenizer.decode_latents(tokens.latents).flux,
        }
        if self.truths is not None:
            images["truth"] = self.truths.of(field, rows)
            sigma = pixel_noise(images["truth"])
        for name, image in images.items():
            self.measured.setdefault(name, []).append(measure(image, sigma, batch.valid, width))
            self.shown.setdefault(name, []).append(image[:, image.shape[1] // 2].astype(np.float32))

    def figures(self) -> dict[str, Any]:
        """What each of the cutouts has kept of each reference, and what it took."""
        bands = self.tokenizer.scaling_.bands
        found = {name: Measured.together(parts) for name, parts in self.measured.items()}
        pairs = [(r, o) for r in ("truth", "data") if r in found for o in ("data", "decoded", "exact") if r != o]
        return {f"{o} to {r}": kept(found[r], found[o], bands) for r, o in pairs} | {
            "costs": {
                "tokens": self.report["n_tokens"],
                "fit_s": self.fit_s,
                "encode_ms": 1e3 * self.encode_s / max(self.n_encoded, 1),
                "perplexity_over_size": self.report["perplexity_fraction"],
            }
        }


def picture(judged: Judged, path: Path) -> None:
    """The brightest of the cutouts, a row for each kind, on one scale per object: 3 sigma of its sky to its peak."""
    from matplotlib.figure import Figure

    shown = {name: np.concatenate(parts) for name, parts in judged.shown.items()}
    data = shown["data"]
    middle = slice(data.shape[-1] // 2 - 3, data.shape[-1] // 2 + 4)
    order = np.argsort(-np.nan_to_num(data[:, middle, middle].sum((1, 2))))
    chosen = order[:: max(1, len(order) // (3 * N_SHOWN))][:N_SHOWN]
    axes = Figure(figsize=(1.6 * len(chosen), 1.7 * len(shown)), layout="constrained").subplots(
        len(shown), len(chosen), squeeze=False
    )
    for row, (name, cutouts) in zip(axes, shown.items(), strict=True):
        for ax, index in zip(row, chosen, strict=True):
            noise = 1.4826 * np.nanmedian(np.abs(data[index] - np.nanmedian(data[index])))
            scaled = np.arcsinh(cutouts[index] / (3 * noise))
            ax.imshow(
                scaled, origin="lower", cmap="gray", vmin=-1, vmax=np.nanmax(np.arcsinh(data[index] / (3 * noise)))
            )
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    axes[0, 0].figure.savefig(path, dpi=80)


def judged(config: Config, path: Path) -> dict[str, Any]:
    """Figures of one variant; its picture goes to ``path``."""
    if config.data.synthetic is not None:
        ensure_survey(config.data, config.paths.datacube_template)
    cubes = discover(config.data, config.paths.datacube_template)
    result = Judged(config)
    result.fit(cubes, assign_splits(cubes, config.data))
    picture(result, path)
    return result.figures()


def lines_of(name: str, found: dict[str, Any]) -> Iterator[str]:
    """The figures of a variant that decide, as rows of a table: one for each reference and kind of cutout."""
    costs = found["costs"]
    for pair, figures in found.items():
        if pair == "costs":
            continue
        other, _, reference = pair.partition(" to ")
        label = {"data": "(the data itself)", "decoded": name, "exact": f"{name} (exact latents)"}[other]
        rows = figures["by_snr"]
        cells = [label, reference, f"{figures['flux_within']:.3f}", f"{figures['flux_within_or_floor']:.3f}"]
        cells.append(" ".join(f"{row['flux']['within']:.2f}" for row in rows[:-1]))
        for quantity in QUANTITIES:
            mine = rows[-1][quantity]
            cells.append("-" if not mine["n"] else f"{mine['bias']:+.2f} {mine['scatter']:.2f}")
        of_tokens = other == "decoded"
        cells += [f"{costs['tokens']}", f"{costs['perplexity_over_size']:.2f}"] if of_tokens else ["", ""]
        cells += [f"{costs['encode_ms']:.1f}", f"{costs['fit_s']:.0f}"] if of_tokens else ["", ""]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = variants_parser(__doc__, ("synthetic", *REAL))
    parser.add_argument("--objects", type=int, default=1200, help="of the synthetic sky")
    arguments = parser.parse_args()
    head = ["overrides", "against", "flux within", "or 2 %", "by S/N", *QUANTITIES]
    head += ["tokens", "codes in use", "ms", "fit s"]
    measure_variants(
        arguments,
        head,
        lambda overrides, path: judged(configured(arguments, overrides), path.with_suffix(".png")),
        lines_of,
    )


if __name__ == "__main__":
    main()
