"""Callbacks for a loop of one's own, and ``validate`` of the document."""

from ..losses import validate

__all__ = ["validate"]
