"""Neural networks over token sequences."""

from ..lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, {"transformer": "CausalTransformerLM"})
