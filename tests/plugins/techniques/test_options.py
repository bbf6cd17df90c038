"""The tables of the built-in techniques: keys that moved, tables that were words, their size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, Field, ValidationError

from tunesmith.catalog import Catalog
from tunesmith.config import run_file
from tunesmith.config.problems import convert_problems
from tunesmith.config.read_plan import make_plan
from tunesmith.errors import ConfigError
from tunesmith.offers import TechniqueOffer
from tunesmith.options import fields_by_key, from_table
from tunesmith.plugins import Selection, find_plugins
from tunesmith_plugins.techniques.existing.options import ExistingOptions
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_plugins.techniques.rlhf.options import (
    PolicyStage,
    RewardStage,
    RlhfOptions,
    SupervisedStage,
)
from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions, QuantizationOptions
from tunesmith_torch.options.training import (
    CheckpointOptions,
    OptimizerOptions,
    ScheduleOptions,
    TrainingOptions,
)

MOST_KEYS = 16
"""Settings of one table; a table within it is counted by itself."""

KEYS: dict[str, tuple[str, type[TrainingOptions]]] = {
    "full": ("technique", FullOptions),
    "lora": ("technique", LoraOptions),
    "qlora": ("technique", QloraOptions),
    "preference": ("technique", PreferenceOptions),
    "supervised": ("technique.supervised", SupervisedStage),
    "reward": ("technique.reward", RewardStage),
    "policy": ("technique.policy", PolicyStage),
}
"""Table and options by the name of a technique, or of a stage."""


@cache
def built_ins() -> Catalog:
    return Catalog(find_plugins(Selection(allowed=frozenset())))


def problems(name: str, key: str, value: Any) -> dict[str, Any]:
    """Return the problems of a run file with this key, by the path of their key."""
    table, _ = KEYS[name]
    _, _, stage = table.partition(".")
    keys = {key: value}
    technique = {"use": "rlhf", stage: keys} if stage else {"use": name, **keys}
    tables: dict[str, Any] = {
        "model": {"base": "no such model"},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": technique,
    }
    with pytest.raises(ConfigError) as caught:
        make_plan(run_file.RunFile(tables=tables, folder=Path("/"), stem="x"), built_ins())
    return {problem.where: problem for problem in caught.value.problems}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("schedule", "cosine", "schedule.type = ..."),
        ("optimizer", "adamw-8bit", "optimizer.name = ..."),
    ],
)
def test_a_word_in_place_of_a_table_is_refused_with_its_key(
    name: str, key: str, value: str, hint: str
) -> None:
    where = f"{KEYS[name][0]}.{key}"
    problem = str(problems(name, key, value)[where])
    assert "must be a table" in problem and f"write {hint}" in problem


class TupleOptions(TrainingOptions):
    """Options of a technique of someone else: arrays that are no lists."""

    names: tuple[str, ...] = Field(("down_proj",), description="Names of modules.")
    kinds: frozenset[str] = Field(frozenset({"a"}), description="Kinds of modules.")


def test_arrays_of_a_run_file_can_be_tuples_and_sets() -> None:
    table = {"names": ["q_proj", "v_proj"], "kinds": ["b"], "optimizer": {"betas": [0.8, 0.9]}}
    options = from_table(TupleOptions, table)
    assert (options.names, options.kinds) == (("q_proj", "v_proj"), {"b"})
    assert options.optimizer.betas == (0.8, 0.9)


def test_the_name_of_a_loss_in_place_of_its_table_is_refused() -> None:
    text = str(problems("preference", "loss", "dpo")["technique.loss"])
    assert "must be a table" in text and "write loss.type = ..." in text


@pytest.mark.parametrize("name", ["preference", "reward", "policy"])
def test_a_key_of_supervised_training_alone_is_unknown_elsewhere(name: str) -> None:
    with pytest.raises(ValidationError, match="truncate_prompts"):
        from_table(KEYS[name][1], {"truncate_prompts": True})


# --------------------------------------------------------------------------- tables


def nested_table(options: type[BaseModel], key: str) -> type[BaseModel]:
    annotation = options.model_fields[key].annotation
    assert isinstance(annotation, type) and issubclass(annotation, BaseModel), key
    return annotation


def tables(path: str, options: type[BaseModel]) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each table, and its settings: the keys that are no tables themselves.

    A list of tables, such as ``[[technique.policy.rewards]]``, is a table too.
    """
    settings = []
    for field, info in options.model_fields.items():
        annotation, key = info.annotation, info.alias or field
        for inner in (annotation, *get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from tables(f"{path}.{key}", inner)
                break
        else:
            settings.append(key)
    yield path, settings


def test_no_table_is_large() -> None:
    sizes = {
        path: len(keys)
        for offered in built_ins().offers(TechniqueOffer)
        for path, keys in tables(offered.offer.name, offered.offer.config)
    }
    assert len(sizes) > 30 and max(sizes.values()) > MOST_KEYS // 2, "the keys are not found"
    assert not {path: size for path, size in sizes.items() if size > MOST_KEYS}


def test_tables_within_a_table_are_counted_by_themselves() -> None:
    found = dict(tables("rlhf", RlhfOptions))
    assert {"rlhf", "rlhf.policy", "rlhf.policy.monitor", "rlhf.reward.gate"} <= set(found)
    assert found["rlhf"] == []
    assert {"from", "skip", "learning_rate"} <= set(found["rlhf.policy"])
    assert "optimizer" not in found["rlhf.policy"]
    assert found["rlhf.policy.rewards"] == ["weight", "function", "plugin"]
    assert found["rlhf.policy.schedule"] == ["type", "warmup_ratio"]


def test_defaults_of_the_tables() -> None:
    options = LoraOptions()
    assert options.optimizer == OptimizerOptions(name="adamw", max_grad_norm=1.0)
    assert options.schedule == ScheduleOptions(type="cosine", warmup_ratio=0.05)
    assert options.checkpoints == CheckpointOptions(every=None, keep=2)
    assert options.adapter == AdapterOptions(rank=16, alpha=32.0)
    assert from_table(LoraOptions, options.model_dump(mode="json", by_alias=True)) == options
    with pytest.raises(ValidationError, match="keep"):
        from_table(LoraOptions, {"checkpoints": {"keep": 0}})


@pytest.mark.parametrize(
    ("options", "table", "expected"),
    [
        (FullOptions, {}, Adaptation("full")),
        (LoraOptions, {"adapter": {"rank": 4}}, Adaptation("lora", AdapterOptions(rank=4))),
        (QloraOptions, {}, Adaptation("qlora", AdapterOptions(), QuantizationOptions())),
        (PreferenceOptions, {}, Adaptation("lora", AdapterOptions())),
        (PreferenceOptions, {"adapt": "full"}, Adaptation("full")),
        (
            SupervisedStage,
            {"adapt": "qlora", "quantization": {"bits": 8}},
            Adaptation("qlora", AdapterOptions(), QuantizationOptions(bits=8)),
        ),
    ],
)
def test_the_weights_that_are_trained_follow_from_the_options(
    options: type[TrainingOptions], table: dict[str, Any], expected: Adaptation
) -> None:
    assert from_table(options, table).adaptation == expected


def test_training_options_without_an_effect_are_refused() -> None:
    """`existing` does not train; its defaults may be written, as in the run file of a run."""
    read = {"tuned": "x", "precision": "fp32", "chat_template": {"source": "chatml"}}
    stored = from_table(ExistingOptions, read).model_dump(mode="json", by_alias=True)
    assert from_table(ExistingOptions, stored).precision == "fp32"
    for key, value in (("epochs", 3.0), ("from", "a"), ("optimizer", {"weight_decay": 0.5})):
        with pytest.raises(ValidationError) as caught:
            from_table(ExistingOptions, {**read, key: value})
        (problem,) = convert_problems(caught.value, "technique", ExistingOptions)
        assert str(problem) == f"technique: remove keys that have no effect here: `{key}`"
    assert {"tuned", "chat_template"} <= {*fields_by_key(ExistingOptions)}
    assert not {"epochs", "from"} & {*fields_by_key(ExistingOptions)}


@pytest.mark.parametrize("options", [PreferenceOptions, SupervisedStage, RewardStage, PolicyStage])
def test_a_table_that_is_not_read_is_refused(options: type[TrainingOptions]) -> None:
    with pytest.raises(ValidationError, match="`adapter` only has an effect with"):
        from_table(options, {"adapt": "full", "adapter": {"rank": 4}})
    with pytest.raises(ValidationError, match="`quantization` only has an effect with"):
        from_table(options, {"quantization": {"bits": 8}})


@pytest.mark.parametrize("table", [{"backend": "trl"}, {"vllm": True}], ids=str)
def test_the_keys_of_trl_name_the_distribution_that_has_them(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"install contrib/tunesmith-trl and .*trl-rloo"):
        from_table(PolicyStage, table)


# --------------------------------------------------------------------------- bounds

OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("adapter.target_modules", []),
    ("adapter.target_modules", [""]),
    ("adapter.modules_to_save", [" "]),
    ("adapter.alpha", math.inf),
    ("adapter.alpha", 1e9),
    ("optimizer.betas", [2, 2]),
    ("optimizer.betas", [0.9, 1.0]),
    ("optimizer.betas", [-0.1, 0.9]),
    ("optimizer.max_grad_norm", math.inf),
    ("optimizer.weight_decay", math.nan),
    ("max_length", 2**40),
]


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused(key: str, value: Any) -> None:
    table, _, last = key.rpartition(".")
    tables = {table: {last: value}} if table else {last: value}
    with pytest.raises(ValidationError, match=last):
        from_table(LoraOptions, tables)


@pytest.mark.parametrize("weight", [math.inf, -math.inf, math.nan])
def test_a_weight_of_a_reward_is_finite(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        from_table(PolicyStage, {"rewards": [{"weight": weight}]})


def test_a_module_is_trained_fully_or_gets_an_adapter() -> None:
    adapter = {"target_modules": ["q_proj", "o_proj"], "modules_to_save": ["o_proj"]}
    with pytest.raises(ValidationError, match="`o_proj` is in `target_modules` and in"):
        from_table(LoraOptions, {"adapter": adapter})


@pytest.mark.parametrize(
    ("config", "rate", "is_high"),
    [
        ({}, 1e-4, True),
        ({}, 9e-5, False),
        ({"hidden_size": 4096}, 1e-4, True),
        ({"hidden_size": 576}, 2e-4, False),
        ({"hidden_size": 576}, 4e-4, True),
        ({"text_config": {"hidden_size": 576}}, 2e-4, False),
    ],
)
def test_a_high_learning_rate_depends_on_the_width_of_the_model(
    tmp_path: Path, config: dict[str, Any], rate: float, is_high: bool
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    tables: dict[str, Any] = {
        "model": {"base": str(tmp_path)},
        "data": {"use": "jsonl", "train": "rows.jsonl"},
        "technique": {"use": "full", "learning_rate": rate},
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    plan = make_plan(run_file.RunFile(tables=tables, folder=tmp_path, stem="x"), built_ins())
    found = [finding.where for _, finding in built_ins().review_plan(plan)]
    assert ("technique.learning_rate" in found) is is_high
