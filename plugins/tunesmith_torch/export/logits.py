"""Convert an engine's logits to log-probabilities, in numpy.

Shapes: N positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["normalize_logits"]


def normalize_logits(logits_NV: Any) -> Any:
    """Return the log-probabilities of all tokens at each position, in float64."""
    logits_NV = np.asarray(logits_NV, np.float64)
    logits_NV = logits_NV - logits_NV.max(-1, keepdims=True)
    return logits_NV - np.log(np.exp(logits_NV).sum(-1, keepdims=True))
