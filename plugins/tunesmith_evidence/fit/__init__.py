"""Diagnose how well a model fits its training data, and whether more training would help."""

from tunesmith_evidence.fit.diagnosis import (
    MEMORIZED_AUC,
    VALIDATION_FILE,
    ZERO_SHOT,
    FitDiagnosis,
    FitState,
    diagnose_fit,
    rate_fit,
)

__all__ = [
    "MEMORIZED_AUC",
    "VALIDATION_FILE",
    "ZERO_SHOT",
    "FitDiagnosis",
    "FitState",
    "diagnose_fit",
    "rate_fit",
]
