"""The pictures of the README and of the gallery, from the newest runs of ``make demo``: ``python docs/pictures.py``.

``docs/pictures/demo.png`` is drawn here, the others are what the runs drew themselves, made small.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

import astromodal

FOLDER = Path(__file__).parent / "pictures"
GALLERY = {  # stage -> pictures, and how many pixels from the top are shown
    "train_tokenizers": {"spectrum_reconstruction": 838, "scalar_reconstruction": None, "image_reconstruction": 695},
    "train_lm": {"curves": None, "gradient_shares": None, "scalars": None, "spectra": None},
    "evaluate": {"predicted": None, "coverage": None, "pit": None, "by_magnitude": None, "against_crps": None},
}
GREY, BLUE, ORANGE = "0.6", "#0072b2", "#d55e00"


def newest(stage: str) -> Path:
    """Folder of the newest run of a stage of the demo."""
    return sorted(Path("runs", stage, "demo").glob("*/run.json"))[-1].parent


def gallery() -> None:
    """Pictures that runs drew, in 128 colours and at most 1100 pixels wide."""
    for stage, names in GALLERY.items():
        for name, height in names.items():
            (path,) = [p for p in newest(stage).rglob(f"plots/{name}.png") if "wandb" not in p.parts]
            image = Image.open(path).convert("RGB")
            image = image.crop((0, 0, image.width, height or image.height))
            image.thumbnail((1100, 1100))
            image.quantize(128).save(FOLDER / f"{name}.png", optimize=True)


def demo() -> None:
    """A spectrum and a cutout as they are and as their tokens say, and answers against what was observed."""
    model = astromodal.load(newest("train_lm"))
    path = sorted(Path(model.data.root).glob("datacube_*.parquet"))[0]
    table, field = pq.read_table(path), path.stem.removeprefix("datacube_")
    figure, axes = plt.subplot_mosaic("ssp;tdp", figsize=(11, 5), width_ratios=(1, 1, 1.4), layout="constrained")
    draw_spectrum(axes["s"], model, table, field)
    draw_cutout([axes["t"], axes["d"]], model, table, field)
    answers = pq.read_table(newest("evaluate") / "catalogue.parquet")
    draw_answers(axes["p"], answers.filter(pc.equal(answers["split"], "test")))
    figure.savefig(FOLDER / "demo.png", dpi=100)


def arrays(table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a list, and the lists ``(n, length)``."""
    rows = np.flatnonzero(table[column].is_valid().to_numpy(zero_copy_only=False))
    return rows, np.stack([np.asarray(table[column][row].as_py(), float) for row in rows.tolist()])


def draw_spectrum(axis, model, table, field: str) -> None:
    """One of the better spectra of the blue arm."""
    group = model.data.spectra["desi_b"]
    rows, flux = arrays(table, group.flux)
    ivar = arrays(table, group.ivar)[1]
    flux = np.where(ivar > 0, flux, np.nan)  # damaged pixels weigh nothing, and are not shown
    signal_to_noise = np.nanmedian(flux * ivar**0.5, axis=1)
    row = int(np.argsort(signal_to_noise)[-len(rows) // 5])
    wave = arrays(table, group.wave)[1][row]
    decoded = model.decode(model.encode(table.slice(int(rows[row]), 1), field=field))["desi_b"][0].as_py()
    grid = group.wave_min + group.wave_step * np.arange(len(decoded))
    axis.plot(wave, flux[row], color=GREY, lw=0.5, label="observed")
    axis.plot(grid, decoded, color=BLUE, lw=1.2, label="from its tokens")
    axis.set_ylim(*np.nanpercentile(flux[row], (0.5, 99.5)) * (0.7, 1.3))
    axis.set(xlabel="wavelength [Å]", ylabel="flux [1e-17 erg/s/cm²/Å]", title="a spectrum", xlim=(grid[0], grid[-1]))
    axis.legend(frameon=False, loc="upper left")


def draw_cutout(axes, model, table, field: str) -> None:
    """A bright galaxy in r: observed, and from its tokens; stretched by arcsinh."""
    bands, size = model.data.images.bands, model.data.images.size
    rows, flux = arrays(table, bands["r"].column)
    row = int(np.argsort(np.nanmedian(np.sort(flux, axis=1)[:, -200:], axis=1))[-6])
    decoded = model.decode(model.encode(table.slice(int(rows[row]), 1), field=field))["image"][0].as_py()
    decoded = np.reshape(decoded, (len(bands), size, size))[list(bands).index("r")]
    observed = flux[row].reshape(size, size)
    for axis, image, title in zip(axes, (observed, decoded), ("a cutout in r", "from its tokens"), strict=True):
        stretched = np.arcsinh(image / np.nanstd(observed[:20]) * np.nanmax(observed) / np.nanmax(image))
        limits = np.nanpercentile(stretched, (1, 99.9))
        axis.imshow(stretched, cmap="gray_r", vmin=limits[0], vmax=limits[1], origin="lower")
        axis.set(xticks=[], yticks=[], title=title)


def draw_answers(axis, answers) -> None:
    """Predicted magnitude with its 68 % interval against the observed one, of objects on held-out sky."""
    name = "mag_pstotal_r"
    observed, median, low, high = (answers[name + end].to_numpy() for end in ("", "_median", "_q16", "_q84"))
    below, above = np.maximum(median - low, 0), np.maximum(high - median, 0)
    axis.errorbar(observed, median, (below, above), fmt=".", ms=4, lw=0.6, color=BLUE, ecolor="#9ecae1")
    ends = np.nanmin(observed), np.nanmax(observed)
    axis.plot(ends, ends, "--", color=ORANGE, lw=1)
    axis.set(xlabel="observed r [mag]", ylabel="r from everything else [mag]", title="answers on sky it never saw")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    gallery()
    demo()
