"""The public logging and metrics; they live in :mod:`astromodal.runs.observability`."""

from ...runs.observability import MetricsBuffer, get_logger, setup_logging

__all__ = ["MetricsBuffer", "get_logger", "setup_logging"]
