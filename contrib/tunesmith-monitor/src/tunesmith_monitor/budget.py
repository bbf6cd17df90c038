"""One budget of false alarms for all layers of the monitor.

The budget is an expected run length: if nothing changes, false alarms occur at most once per
``run_length`` requests on average. Expected numbers of false alarms add up, whether or not the
layers depend on each other, so each layer gets a share of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass

LAYERS = {"inputs": 0.5, "confidence": 0.25, "labels": 0.25}
"""Share of the false alarms that each layer may raise."""


@dataclass(frozen=True)
class Budget:
    """The accepted rate of false alarms, divided between the layers."""

    run_length: int
    """Requests per false alarm, on average, if nothing changes."""

    def rate(self, layer: str) -> float:
        """Return the expected number of false alarms of a layer per request."""
        return LAYERS[layer] / self.run_length
