"""Train the causal transformer on token sequences, with cross-entropy plus the reconstruction loss.

    python train_lm.py                                        # synthetic sky, small model
    python train_lm.py loss.weight_image=0.2 loss.sample_k=256 model=tiny

Needs the tokens that encode.py wrote. Writes runs/train_lm/<name>/<run_id>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works from a checkout without installation

from astromodal.config.launching.launch import launch


def task(cfg):
    from astromodal.stages import train_lm

    return train_lm(cfg)


if __name__ == "__main__":
    launch("train_lm", task, __doc__)
