"""Diagnose how well a training fits its data, and whether more training would help."""

from tunesmith_evidence.fit.diagnosis import (
    BASE,
    MEMORISED_AUC,
    VALIDATION_FILE,
    Fit,
    FitState,
    diagnose_fit,
    rate_fit,
)

__all__ = [
    "BASE",
    "MEMORISED_AUC",
    "VALIDATION_FILE",
    "Fit",
    "FitState",
    "diagnose_fit",
    "rate_fit",
]
