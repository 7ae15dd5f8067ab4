"""What the comparison of tokenizers tries: surveys, networks, quantizers, as overrides of ``train_tokenizers.py``; and
what its benchmarks share: one configuration without a run, and variants by the command line."""

from __future__ import annotations

import argparse
import itertools
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from astromodal.files.io import write_json

WITHOUT_RUN = (  # one thread, nothing tracked, no run directory
    "hardware=cpu",
    "hardware.n_threads=1",
    "tracking=off",
    "run_dir=none",
    "run_id=none",
    "tokenizer_id=default",
)

SKY = (
    "data=synthetic",
    "data.synthetic.n_fields=4",
    "data.synthetic.n_objects_per_field=500",
    "data.synthetic.image_fraction=0.25",
)
STEPS = {"spectrum": 300, "image": 300}  # of every network
BATCH = {"spectrum": 32, "image": 16}


class Problem(NamedTuple):
    """A survey, and one kind of array of it."""

    survey: str  # synthetic, or a folder of real cubes
    data: tuple[str, ...]
    modality: str
    group: str = ""  # of spectra
    patches: tuple[int, int] = (16, 32)  # pixels per token that are tried


PROBLEMS = {
    "synthetic_desi": Problem("synthetic", SKY, "spectrum", "desi_r"),
    "synthetic_xp": Problem("synthetic", SKY, "spectrum", "gaiaxp_bp", (5, 11)),
    "synthetic_image": Problem("synthetic", SKY, "image"),
    "splus_desi": Problem("splus", ("data=splus",), "spectrum", "desi_r"),
    "splus_xp": Problem("splus", ("data=splus",), "spectrum", "gaiaxp_bp", (5, 11)),
    "kids_image": Problem("kids", ("data=kids_viking",), "image"),
}
QUANTIZERS = {
    "km256": ("quantizer=kmeans", "n_codes=256"),
    "km1024": ("quantizer=kmeans", "n_codes=1024"),
    "km2048": ("quantizer=kmeans", "n_codes=2048"),
    "rk2x256": ("quantizer=residual_kmeans", "n_stages=2", "n_codes=256"),
    "rk2x1024": ("quantizer=residual_kmeans", "n_stages=2", "n_codes=1024"),
    "rk3x1024": ("quantizer=residual_kmeans", "n_stages=3", "n_codes=1024"),
    "fsq": ("quantizer=fsq",),
    "trits": ("quantizer=fsq_trits",),
}
# Settings below tokenizer.<modality>.codec, and quantizers of such latents; P: pixels per token. Behind networks fewer
# quantizers are tried: their figures say what the network alone loses.
NETWORKS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "image": {
        "ae2": (("codec=autoencoder", "width=32"), ("km256", "km1024", "km2048", "rk2x1024")),
        "ae4": (("codec=autoencoder", "width=32", "latent_channels=4"), ("km256", "km2048", "rk2x1024", "fsq")),
        "vae2": (("codec=vae", "width=32"), ("km256", "km2048")),
        "vae4": (("codec=vae", "width=32", "latent_channels=4"), ("km2048", "rk2x1024")),
        "ternary": (("codec=ternary_vae", "width=32"), ("km1024", "trits")),
    },
    "spectrum": {
        "patchesP": (("codec=patches",), ("km256", "km1024", "km2048", "rk2x256", "rk2x1024", "rk3x1024")),
        "maeP": (("codec=masked_autoencoder", "pixels_per_latent=P"), ("km256", "km1024", "rk2x1024", "fsq")),
        "vaeP": (("codec=vae", "patch_size=P"), ("km256", "km1024", "rk2x1024")),
        "ternaryP": (("codec=ternary_vae", "patch_size=P"), ("km1024", "trits")),
    },
}


def variants(problem: Problem) -> dict[str, tuple[str, ...]]:
    """Every network with every quantizer that fits it, as overrides.

    >>> list(variants(PROBLEMS["synthetic_xp"]))[:2]
    ['patches5 km256', 'patches5 km1024']
    """
    found = {}
    for (name, (settings, quantizers)), pixels in itertools.product(
        NETWORKS[problem.modality].items(), problem.patches if problem.modality == "spectrum" else (0,)
    ):
        for quantizer in quantizers:
            full = name.replace("P", str(pixels))
            found[f"{full} {quantizer}"] = overrides(problem, settings, QUANTIZERS[quantizer], pixels)
    return found


def overrides(problem: Problem, codec: Iterable[str], quantizer: Iterable[str], pixels: int) -> tuple[str, ...]:
    """Of ``train_tokenizers.py``; ``codec=x`` and ``quantizer=x`` choose options, the rest are settings of them."""
    part, chosen = f"tokenizer.{problem.modality}", []
    for kind, settings in (("codec", codec), ("quantizer", quantizer)):
        for setting in settings:
            option = setting.startswith(f"{kind}=")
            key = f"tokenizer/{problem.modality}/{setting}" if option else f"{part}.{kind}.{setting}"
            chosen.append(key.replace("=P", f"={pixels}"))
    if problem.modality == "spectrum":
        own = problem.group.startswith("gaiaxp_")  # has a patch size of its own
        size = f"{part}.patch_sizes.{problem.group}" if own else f"{part}.patch_size"
        chosen += [f"{part}.groups=[{problem.group}]", f"{size}={pixels}"]
    return (*problem.data, f"tokenizer={problem.modality}", *chosen)


def training(problem: Problem, steps: int | None) -> tuple[str, ...]:
    """The same steps and batches for every network of a modality; none for patches, which have no network."""
    key, modality = f"tokenizer.{problem.modality}.codec.training", problem.modality
    return f"{key}.max_steps={steps or STEPS[modality]}", f"{key}.epochs=10000", f"{key}.batch_size={BATCH[modality]}"


def variants_parser(doc: str | None, skies: tuple[str, ...]) -> argparse.ArgumentParser:
    """Of a benchmark that measures variants on one of ``skies``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sky", choices=skies, default=skies[0])
    parser.add_argument("--variant", action="append", help="overrides of train_tokenizers.py, in one argument")
    parser.add_argument("--work", type=Path, required=True, help="folder for cubes and results")
    return parser


def measure_variants(
    arguments: argparse.Namespace,
    head: Iterable[str],
    measure: Callable[[list[str], Path], Any],
    lines: Callable[[str, Any], Iterable[str]],
) -> None:
    """Print a table with the lines of each variant, and keep its figures below ``arguments.work``.

    Args:
        measure: of its overrides, and of a path without suffix for what is written beside, to its figures.
        lines: of its name and figures, as rows of the table.
    """
    arguments.work.mkdir(parents=True, exist_ok=True)
    head = list(head)
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
    for number, variant in enumerate(arguments.variant or [""]):
        path = arguments.work / f"{arguments.sky}_{number}"
        found = measure(shlex.split(variant), path)
        write_json(path.with_suffix(".json"), {"overrides": variant, "figures": found})
        print("\n".join(lines(variant or "(default)", found)), flush=True)
