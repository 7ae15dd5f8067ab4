"""Configuration: schema, registration with Hydra, checks, and :func:`load_config` for Python users.

``load_config`` is imported on first use: Hydra costs 0.3 s.
"""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, {"load": "load_config"})
