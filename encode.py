"""Turn every object of the datacubes into tokens, one file per field and modality.

    python encode.py                                          # what is not up to date, synthetic sky
    python encode.py data=splus data.root=/data/cubes hardware.n_processes=4

Needs the tokenizers that train_tokenizers.py wrote. Writes artifacts/<data>/<tokenizer_id>/tokens/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works from a checkout without installation

from astromodal.config.launching.launch import launch


def task(cfg):
    from astromodal.stages import encode

    return encode(cfg)


if __name__ == "__main__":
    launch("encode", task, __doc__)
