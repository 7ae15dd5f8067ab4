"""astromodal: multimodal astronomical data as tokens, and a transformer trained in the space of the data.

Nothing heavy is imported here; ``import astromodal`` stays fast. It is the one place that every command and every worker
passes before torch is imported, so what OpenMP has to know is said here.
"""

from .config.threads import prepare_threads

prepare_threads()

__version__ = "0.1.0"
