"""The stages of a technique, by the keys of their options."""

from __future__ import annotations

from tunesmith.options import Options, from_table
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.rlhf.options import RlhfOptions
from tunesmith_torch.options.stages import list_stages


def test_a_technique_is_one_stage_or_has_those_that_are_not_skipped() -> None:
    lora = LoraOptions()
    assert list(list_stages(lora)) == [("technique", lora)]
    rlhf = from_table(RlhfOptions, {"supervised": {"skip": True}})
    assert list(list_stages(rlhf)) == [
        ("technique.reward", rlhf.reward),
        ("technique.policy", rlhf.policy),
    ]
    assert list(list_stages(Options())) == []
