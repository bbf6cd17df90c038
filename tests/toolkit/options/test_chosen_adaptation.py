"""``adapt``: the weights that are trained, and the tables that are read with it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.options import from_table
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.rlhf.options import RewardStage
from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions, QuantizationOptions
from tunesmith_torch.options.chosen_adaptation import ChosenAdaptationOptions
from tunesmith_torch.options.policy import PolicyOptions


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, Adaptation("lora", AdapterOptions())),
        ({"adapter": {"rank": 4}}, Adaptation("lora", AdapterOptions(rank=4))),
        ({"adapt": "full"}, Adaptation("full")),
        ({"adapt": "qlora"}, Adaptation("qlora", AdapterOptions(), QuantizationOptions())),
        (
            {"adapt": "qlora", "quantization": {"bits": 8}, "adapter": {"alpha": 8.0}},
            Adaptation("qlora", AdapterOptions(alpha=8.0), QuantizationOptions(bits=8)),
        ),
    ],
)
def test_the_weights_that_are_trained(table: dict[str, Any], expected: Adaptation) -> None:
    assert from_table(ChosenAdaptationOptions, table).adaptation == expected


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"adapt": "full", "adapter": {"rank": 4}}, "`adapter` only has an effect with"),
        ({"adapt": "full", "quantization": {"bits": 8}}, "`quantization` only has an effect with"),
        ({"adapt": "lora", "quantization": {"bits": 8}}, "`quantization` only has an effect with"),
        ({"adapt": "all"}, "'full', 'lora' or 'qlora'"),
    ],
)
def test_a_table_that_is_not_read_is_refused(table: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        from_table(ChosenAdaptationOptions, table)


@pytest.mark.parametrize("kind", [PreferenceOptions, PolicyOptions])
def test_dropout_is_refused_where_updates_have_none(kind: type[ChosenAdaptationOptions]) -> None:
    with pytest.raises(ValidationError, match=r"`adapter\.dropout` must be 0: the loss compares"):
        from_table(kind, {"adapter": {"dropout": 0.1}})
    assert from_table(RewardStage, {"adapter": {"dropout": 0.1}}).adapter.dropout == 0.1
