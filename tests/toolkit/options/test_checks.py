"""Values that are allowed, and with which a training learns next to nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tunesmith.options import from_table
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_torch.options.checks import find_inert_options, find_sharding_errors


@pytest.mark.parametrize(
    ("options", "table", "where"),
    [
        (LoraOptions, {"adapter": {"alpha": 1e-300}}, "technique.adapter.alpha"),
        (LoraOptions, {"adapter": {"alpha": 65536.0, "rank": 1}}, "technique.adapter.alpha"),
        (QloraOptions, {"adapter": {"dropout": 0.99999999}}, "technique.adapter.dropout"),
        (PreferenceOptions, {"adapter": {"alpha": 1e-9}}, "technique.adapter.alpha"),
        (FullOptions, {"learning_rate": 1e-300}, "technique.learning_rate"),
        (FullOptions, {"schedule": {"warmup_ratio": 0.999}}, "technique.schedule.warmup_ratio"),
        (
            RlhfOptions,
            {"supervised": {"learning_rate": 1e-30}},
            "technique.supervised.learning_rate",
        ),
        (LoraOptions, {}, None),
        (FullOptions, {}, None),
        (RlhfOptions, {}, None),
        (LoraOptions, {"adapter": {"alpha": 16.0, "rank": 1024}}, None),
        (LoraOptions, {"adapter": {"alpha": 16.0, "rank": 256, "use_rslora": True}}, None),
    ],
)
def test_a_value_without_effect_is_found(
    options: type[BaseModel], table: dict[str, Any], where: str | None
) -> None:
    found = list(find_inert_options(from_table(options, table)))
    assert [finding.where for finding in found] == ([where] if where else [])
    assert all(finding.level == "warning" for finding in found)


def test_sharded_weights_are_found_in_every_stage() -> None:
    sharded = {"parallel": "sharded"}
    table = {"supervised": sharded, "policy": sharded}
    found = list(find_sharding_errors(from_table(RlhfOptions, table)))
    assert [f.where for f in found] == [
        "technique.supervised.parallel",
        "technique.policy.parallel",
    ]
    assert {f.level for f in found} == {"error"}
    assert not list(find_sharding_errors(from_table(LoraOptions, {})))
