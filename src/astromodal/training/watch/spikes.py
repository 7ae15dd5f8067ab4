"""Sudden rises of the training loss, which often come before a divergence, or from bad data.

A logged loss is a spike when it exceeds ``median + factor * MAD`` of the last ones, where MAD is the median absolute
deviation from the median (a robust spread; 1.48 MADs are one standard deviation of a normal distribution). Median
and MAD are of up to ``WINDOW`` values, so that the level follows a falling loss and forgets what is long ago.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

WINDOW = 50  # logged losses
N_LEAST = 10  # fewer say nothing about a spread
LEAST_SPREAD = 0.01  # MAD is at least this part of the median: a loss that hardly varies has no spikes of 1e-6


class SpikeWatch:
    """Tells the beginning of each spike, once."""

    def __init__(self, factor: float | None) -> None:
        """``factor``: MADs above the median; ``None`` sees nothing."""
        self.factor = factor
        self.losses: list[float] = []
        self.in_spike = False

    def update(self, loss: float) -> float | None:
        """Take the next logged loss; its height above the median in MADs if a spike begins with it, else ``None``.

        Spikes enter the window too, so that a loss that stays high becomes the new level.
        """
        if self.factor is None or not math.isfinite(loss):
            return None
        height = self.height(loss)
        begins = height is not None and height > self.factor and not self.in_spike
        self.in_spike = height is not None and height > self.factor
        self.losses = [*self.losses, loss][-WINDOW:]
        return height if begins else None

    def height(self, loss: float) -> float | None:
        """``(loss - median) / MAD`` of the window; ``None`` before there are ``N_LEAST`` values."""
        if len(self.losses) < N_LEAST:
            return None
        middle = median(self.losses)
        spread = max(median(abs(x - middle) for x in self.losses), LEAST_SPREAD * abs(middle), 1e-12)
        return (loss - middle) / spread

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"losses": list(self.losses), "in_spike": self.in_spike}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.losses, self.in_spike = [float(x) for x in state["losses"]], bool(state["in_spike"])
