"""astromodal: multimodal astronomical data as tokens, and a transformer trained in the space of the data.

Nothing heavy is imported here; ``import astromodal`` stays fast.
"""

__version__ = "0.1.0"
