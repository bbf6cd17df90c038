"""Options: what TRL would ignore does not exist or is refused, and all others reach the policy."""

from __future__ import annotations

from importlib import metadata
from types import SimpleNamespace
from typing import Any, cast

import pytest
from policy_run import trl_options
from pydantic import BaseModel, ValidationError

import tunesmith_trl
from tunesmith.options import from_table
from tunesmith.plan import Plan
from tunesmith_trl.offer import GRPO, RLOO, check_vllm, review_grpo, review_rloo
from tunesmith_trl.options import GrpoOptions, RlooOptions

FUNCTION = {"rewards": [{"function": "rewards.py:short"}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter__dropout": 0.1}, "`adapter.dropout` must be 0"),
        ({"adapter__modules_to_save": ["lm_head"]}, r"`adapter.modules_to_save` must be \[\]"),
        ({"loss__kl_coef": 0.0}, "`monitor.max_kl` must also be 0"),
        ({"generation__num_generations": 1}, "must be at least 2"),
        ({"rewards": [{}]}, "set `reward_model`"),
        ({"reward_model": "runs/rlhf"}, "`reward_model` is not used"),
    ],
    ids=str,
)
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_options_without_effect_are_refused(
    algorithm: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        trl_options(algorithm, **changes)


@pytest.mark.parametrize("options", [GrpoOptions, RlooOptions])
@pytest.mark.parametrize(
    "table",
    [
        {"algorithm": "ppo"},
        {"adapt": "full"},
        {"quantization": {"bits": 4}},
        {"loss": {"gamma": 0.9}},
        {"loss": {"kl_target": 6.0}},
        {"loss": {"vf_coef": 0.5}},
    ],
    ids=str,
)
def test_options_of_other_algorithms_do_not_exist(
    options: type[BaseModel], table: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        from_table(options, {**FUNCTION, **table})


def test_rloo_has_no_clipping() -> None:
    """Its ratio is 1 in the only update on a rollout."""
    assert trl_options("grpo", loss__clip_range=0.3, loss__num_iterations=2)
    for key in ("loss__clip_range", "loss__num_iterations"):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            trl_options("rloo", **{key: 0.5})


def test_a_weighted_reward_model_without_weight_of_the_kl_needs_no_limit() -> None:
    options = trl_options(loss__kl_coef=0.0, monitor__max_kl=0.0, rewards=[{}], reward_model="runs")
    assert not options.policy_options.needs_reference
    assert options.policy_options.needs_reward_model


OTHER_VALUES: dict[str, Any] = {
    "from": "runs/earlier",
    "chat_template": {"source": "chat.jinja"},
    "max_steps": 7,
    "micro_batch_tokens": "auto",
    "gradient_checkpointing": "auto",
    "precision": "fp32",
    "optimizer": {"weight_decay": 0.1},
    "schedule": {"type": "linear"},
    "checkpoints": {"keep": 5},
    "adapter": {"rank": 3},
    "generation": {"temperature": 0.7},
    "monitor": {"rows": 5},
    "loss": {"kl_coef": 0.3},
    "rewards": [{"plugin": "package:name", "weight": 2.0}],
}


@pytest.mark.parametrize("options", [GrpoOptions, RlooOptions])
def test_every_option_reaches_the_policy(options: type[GrpoOptions]) -> None:
    """Each option, changed alone, changes the options of the policy in the same way."""
    default = from_table(options, FUNCTION)
    for name, info in options.model_fields.items():
        if name in ("reward_model", "vllm"):  # read by the technique itself
            continue
        key, value = info.alias or name, getattr(default, name)
        other = OTHER_VALUES.get(key)
        if other is None:
            other = not value if isinstance(value, bool) else type(value)(value * 2 or 1)
            other = min(other, 1.0) if name == "learning_rate" else other
        changed = from_table(options, {**FUNCTION, key: other})
        assert changed != default, name
        assert changed.policy_options != default.policy_options, name
        ours, theirs = getattr(changed, name), getattr(changed.policy_options, name)
        if isinstance(ours, BaseModel):
            ours, theirs = ours.model_dump(), theirs.model_dump()
            assert ours.items() <= theirs.items()
        else:
            assert ours == theirs, name


def test_the_policy_has_lora_adapters_over_an_unquantized_base() -> None:
    for algorithm in ("grpo", "rloo"):
        options = trl_options(algorithm)
        policy = options.policy_options
        assert policy.algorithm == algorithm
        assert policy.adaptation == options.adaptation
        assert policy.adaptation.method == "lora" and policy.adaptation.quantization is None


# --------------------------------------------------------------------------- the review of a plan


def plan_of(offer: Any, options: Any, device: str) -> Plan:
    technique = SimpleNamespace(offer=offer, config=options)
    return cast(Plan, SimpleNamespace(technique=technique, run=SimpleNamespace(device=device)))


def test_a_missing_library_is_reported_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    known = metadata.version

    def version(name: str) -> str:
        if name == "vllm":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    options = trl_options(vllm=True)
    (found,) = review_grpo(plan_of(GRPO, options, "cuda"))
    assert (found.level, found.where) == ("error", "technique.vllm")
    assert "vllm" in found.message and "pip install vllm" in found.message
    assert not review_grpo(plan_of(GRPO, trl_options(), "cuda"))


def test_vllm_on_a_cpu_is_reported_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "999.0")
    assert not list(check_vllm(trl_options(vllm=True), "auto"))
    assert not list(check_vllm(trl_options(vllm=False), "cpu"))
    (found,) = check_vllm(trl_options(vllm=True), "cpu")
    assert "this run uses cpu" in found.message


def test_the_optimizer_is_checked_in_the_plan() -> None:
    options = trl_options("rloo", optimizer__name="paged-adamw-8bit")
    (found,) = review_rloo(plan_of(RLOO, options, "cpu"))
    assert found.where == "technique.optimizer.name"


def test_plans_of_other_techniques_are_not_reviewed() -> None:
    options = trl_options(vllm=True)
    assert not review_rloo(plan_of(GRPO, options, "cpu"))
    assert review_grpo(plan_of(GRPO, options, "cpu"))


def test_both_techniques_train_in_one_process_and_need_trl() -> None:
    for plugin, offer in ((tunesmith_trl.GRPO, GRPO), (tunesmith_trl.RLOO, RLOO)):
        assert plugin.tunesmith_techniques() == [offer]
        assert offer.data_parallel is False
        assert offer.needs[0].startswith("trl>=")
