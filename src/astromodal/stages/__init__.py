"""The stages: from a configuration to artifacts and a run directory. The wiring, nothing else.

One module per stage, begin with ``training.py``; what they share is in ``wiring.py`` (a run, the survey, what comes
next) and ``answers.py`` (asking a model and judging it). Uses everything below it; the scripts and ``astromodal
<command>`` call it. Names are imported on first use, so that a stage loads what it needs and no more.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "datacubes": "build_datacubes",
        "fitting": "train_tokenizers",
        "encoding": "encode",
        "training": "train_lm",
        "evaluation": "evaluate",
        "wiring": "open_survey",
    },
)
