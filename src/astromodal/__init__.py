"""astromodal: multimodal astronomical data as tokens, and a transformer trained in the space of the data.

``astromodal.load(folder)`` opens a trained model. Nothing heavy is imported here; ``import astromodal`` stays fast. It
is the one place that every command and every worker passes before torch is imported, so what OpenMP has to know is said
here.
"""

from .lazy import exports
from .machine.threads import prepare_threads

prepare_threads()

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = exports(__name__, {"bundles": "load"})
