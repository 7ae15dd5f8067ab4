"""Sweeps (``-m``): every job checked before the first begins, each in its own folder, continued after an interruption.

Light: nothing here imports torch before a job or a preview does.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, {"sweeper": "run_sweep", "plan": "Action Planned make_plan"})
