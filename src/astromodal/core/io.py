"""What is documented as ``astromodal.core.io``; it lives in :mod:`astromodal.files.io`."""

from ..files.io import *  # noqa: F403
from ..files.io import __all__  # noqa: F401
