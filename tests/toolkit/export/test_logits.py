"""Logits of an engine become the log-probabilities that torch computes."""

from __future__ import annotations

import numpy as np
import torch

from tunesmith_torch.export.logits import normalize_logits


def test_log_probabilities_are_those_of_torch() -> None:
    logits_NV = np.array([[1e4, 0.0, -1e4], [-800.0, -801.0, -799.5], [0.1, 0.2, 0.3]], np.float32)
    expected_NV = torch.tensor(logits_NV).double().log_softmax(-1).numpy()
    found_NV = normalize_logits(logits_NV)
    assert found_NV.dtype == np.float64
    assert np.allclose(found_NV, expected_NV, rtol=0, atol=1e-12)
