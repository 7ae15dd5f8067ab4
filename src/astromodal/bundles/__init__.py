"""Trained models for others: :func:`load` one and ask it, or export it as a folder that needs nothing else.

Begin reading at :mod:`.model` (what can be asked), then :mod:`.opening` (where it comes from) and :mod:`.export` (what
a bundle holds). This package stands on :mod:`astromodal.ask`, whose engine answers, and on :mod:`astromodal.tokens`.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, {"opening": "load", "model": "Model"})
