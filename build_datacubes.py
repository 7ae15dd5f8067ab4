"""Build datacubes from a catalogue with positions, FITS images, spectra and further catalogues.

    python build_datacubes.py cubes=mine data.root=/data/cubes            # what it is made of: conf/cubes/mine.yaml
    python build_datacubes.py data=mine cubes=desi cubes.root=/data/desi cubes.fields.healpix_order=5

What a datacube looks like is the group data (by default S-PLUS, Gaia, DESI). Writes data.root/datacube_<field>.parquet,
and a report of what was matched, missing and masked in runs/build_datacubes/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works from a checkout without installation

from astromodal.config.launching.launch import launch


def task(cfg):
    from astromodal.stages import build_datacubes

    return build_datacubes(cfg)


if __name__ == "__main__":
    launch("build_datacubes", task, __doc__)
