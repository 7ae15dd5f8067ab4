"""Ask a trained model: what is known of these objects, and what follows for the rest, and how surely?

    python evaluate.py                                        # every column from everything else, newest run
    python evaluate.py evaluate.given=[gaiaxp] evaluate.predict=[specz_z,desi_b]
    python evaluate.py data=splus data.root=/data/new evaluate.input=datacubes evaluate.run=runs/train_lm/default/ID

Needs a run of train_lm.py and its tokenizers. Writes runs/evaluate/<name>/<run_id>/catalogue.parquet.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works from a checkout without installation

from astromodal.config.launching.launch import launch


def task(cfg):
    from astromodal.stages import evaluate

    return evaluate(cfg)


if __name__ == "__main__":
    launch("evaluate", task, __doc__)
