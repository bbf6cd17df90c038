"""Models that only answer refuse to score, each with its own reason."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tunesmith.errors import UsageError
from tunesmith_evidence.answers.generation_only import GenerationOnlyModel
from tunesmith_evidence.classify.function_model import FunctionModel
from tunesmith_evidence.endpoint.client import Endpoint
from tunesmith_evidence.endpoint.model import EndpointModel
from tunesmith_plugins.baselines.best_of_n import BestOfNModel

NOTHING = cast("Any", None)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (FunctionModel(lambda texts: texts), "a classifier does not compute log-probabilities"),
        (
            EndpointModel(Endpoint("https://host/v1", "m")),
            "https://host/v1: an endpoint returns no",
        ),
        (BestOfNModel(NOTHING, NOTHING, 2, 1.0, 0), "best-of-n cannot compute the log-probability"),
    ],
)
def test_scores_are_refused_with_the_reason(model: GenerationOnlyModel, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        model.score(["p"], ["a"])
    assert refused.value.hint
