"""The plugin passes the conformance kit of tunesmith."""

from __future__ import annotations

from typing import Any

from tunesmith.testing import parametrize_checks
from tunesmith_personal import PLUGIN
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

SAMPLE: dict[str, Any] = {
    "learning_rate": 0.01,
    "epochs": 8.0,
    "batch_size": 4,
    "precision": "fp32",
    "adapter": {"rank": 16, "target_modules": "all-linear"},
}
NEEDS_RUN = (
    "metrics_are_declared",
    "same_result_twice",
    "does_not_depend_on_batching",
    "handles_empty",
)
EXPECTED = {
    "keeps_groups_together[per-user]": "it divides groups, so that every user has test rows",
    **{
        f"{check}[user-gain]": "it measures the adapters of a run, and the kit has no run"
        for check in NEEDS_RUN
    },
}


@parametrize_checks(
    PLUGIN,
    model=get_tiny_model_folder,
    samples={"personal": SAMPLE},
    expected_failures=EXPECTED,
)
def test_contract(check: Any) -> None:
    check()
