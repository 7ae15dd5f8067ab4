"""Fit the tokenizers: quantile bins for scalars, codebooks for spectra, autoencoder and codebook for images.

    python train_tokenizers.py                                # all three, on the synthetic sky
    python train_tokenizers.py tokenizer=image data=splus data.root=/data/cubes

Writes artifacts/<data>/<tokenizer_id>/tokenizers/ and a report of their quality in runs/train_tokenizers/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works from a checkout without installation

from astromodal.config.launching.launch import launch


def task(cfg):
    from astromodal.stages import train_tokenizers

    return train_tokenizers(cfg)


if __name__ == "__main__":
    launch("train_tokenizers", task, __doc__)
