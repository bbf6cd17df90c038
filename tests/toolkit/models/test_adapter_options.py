"""Each option of the adapters against PEFT alone, and against the planner's number of weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from tables import build
from torch import Tensor
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Job
from tunesmith.errors import UsageError
from tunesmith.estimates import Assumptions, EstimateRequest
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.memory_estimate.setting import EstimateSetting
from tunesmith_torch.models.adapter_stack import adapt_model, combine_adapters, reference_policy
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import Precision, pick_precision
from tunesmith_torch.testing.tiny_model import build_tiny_config
from tunesmith_torch.training import trainer
from tunesmith_torch.training.supervised import SupervisedTask

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
IDS = torch.tensor([[5, 9, 200, 17, 42, 300, 7]])
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "rsLoRA": ({"use_rslora": True}, {"use_rslora": True}),
    "DoRA": ({"use_dora": True}, {"use_dora": True}),
    "gaussian": ({"init": "gaussian"}, {"init_lora_weights": "gaussian"}),
    "orthogonal": ({"init": "orthogonal"}, {"init_lora_weights": "orthogonal"}),
    "PiSSA": ({"init": "pissa"}, {"init_lora_weights": "pissa"}),
    "OLoRA": ({"init": "olora"}, {"init_lora_weights": "olora"}),
    "ranks": (
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}},
    ),
    "alphas": ({"alpha_pattern": {"v_proj": 2.0}}, {"alpha_pattern": {"v_proj": 2.0}}),
    "layers": ({"layers": [1]}, {"layers_to_transform": [1]}),
    "tokens": ({"trainable_tokens": [9, 42]}, {"trainable_token_indices": [9, 42]}),
}
"""Options of the adapter table, and the fields of PEFT's config."""


def load(folder: Path) -> LoadedBase:
    return load_model(folder, CPU, FP32, packing=True)


def options_of(name: str) -> AdapterOptions:
    return build(AdapterOptions, rank=4, alpha=8.0, **CASES[name][0])


def adapt(folder: Path, options: AdapterOptions, initial: InitialModel | None = None) -> Any:
    config = build(LoraOptions, precision="fp32").model_copy(update={"adapter": options})
    return adapt_model(load(folder), FP32, config.adaptation, initial_model=initial, seed=3)


def bare(folder: Path, fields: Mapping[str, Any]) -> Any:
    """Return PEFT's own model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(3)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8.0, target_modules=LINEAR, **fields)  # type: ignore[arg-type]
    return get_peft_model(model, config)


def logits(model: Any) -> Tensor:
    out: Tensor = model(input_ids=IDS).logits
    return out


def take_step(model: Any) -> None:
    """Compute the gradient of a loss."""
    logits(model).log_softmax(-1)[0, :-1].gather(1, IDS[0, 1:, None]).mean().neg().backward()


def trained(model: Any) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def assert_equal(one: Any, other: Any) -> None:
    first, second = trained(one), trained(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-6), name


@pytest.mark.parametrize("name", CASES)
def test_two_steps_equal_those_of_peft(tiny_folder: Path, name: str) -> None:
    adapted, other = adapt(tiny_folder, options_of(name)), bare(tiny_folder, CASES[name][1])
    assert_equal(adapted.model, other)
    assert torch.allclose(logits(adapted.model), logits(other), atol=1e-5)
    config = build(LoraOptions, precision="fp32").model_copy(update={"adapter": options_of(name)})
    masters = MasterWeights(adapted.named_trainable_parameters, config)
    optimizer = torch.optim.AdamW(trained(other).values(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        take_step(adapted.model)
        masters.step(1e-2)
        take_step(other)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(logits(adapted.model), logits(other), atol=1e-3)


def test_lora_plus_equals_pefts_optimizer(tiny_folder: Path) -> None:
    options = build(AdapterOptions, rank=4, alpha=8.0, b_rate_ratio=16.0)
    adapted, other = adapt(tiny_folder, options), bare(tiny_folder, {})
    config = build(LoraOptions, precision="fp32", optimizer={"weight_decay": 0.1})
    config = config.model_copy(update={"adapter": options})
    masters = MasterWeights(adapted.named_trainable_parameters, config)
    optimizer = create_loraplus_optimizer(
        other, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=0.1
    )
    for _ in range(3):
        take_step(adapted.model)
        masters.step(1e-3)
        take_step(other)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(logits(adapted.model), logits(other), atol=1e-3)
    rates = {group["lr"] for group in masters.optimizer.param_groups}
    assert rates == {1e-3, 16e-3}


def train(folder: Path, model: Path, **adapter: Any) -> tuple[Path, AdaptedModel]:
    class Recorded(SupervisedTask):
        def adapt(
            self, base: LoadedBase, precision: Precision, job: Job[Any], initial: Any
        ) -> AdaptedModel:
            self.adapted = super().adapt(base, precision, job, initial)
            return self.adapted

    table = {f"adapter__{name}": value for name, value in adapter.items()}
    config = build(
        LoraOptions, epochs=3, batch_size=4, learning_rate=1e-2, precision="fp32",
        adapter__rank=4, **table,
    )  # fmt: skip
    rows = tuple(
        Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
        for n in range(8)
    )
    task = Recorded()
    job: Job[Any] = Job(
        config=config, model=model, train=rows, validation=(), out=folder, seed=3, device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"), emit=lambda event: None, technique="test",
    )  # fmt: skip
    task_model: list[Tensor] = []
    finalize = task.finalize

    def keep(session: Any) -> AdaptedModel:
        task_model.append(logits(session.adapted.model.eval()).detach())
        return finalize(session)

    task.finalize = keep  # type: ignore[method-assign]
    artifact = trainer.train(job, task)
    return artifact.path, task_model[0]  # type: ignore[return-value]


@pytest.mark.parametrize("name", CASES)
def test_an_artifact_loads_in_peft_alone(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    """Also where the initialization has changed the base model in memory."""
    artifact, expected = train(tmp_path, tiny_folder, **CASES[name][0])
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    untouched = logits(base).detach()
    found = logits(PeftModel.from_pretrained(base, str(artifact)).eval()).detach()
    assert torch.allclose(found, expected, atol=1e-4)  # type: ignore[arg-type]
    assert (found - untouched).abs().max() > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_the_planner_counts_the_trained_weights(tiny_folder: Path, name: str) -> None:
    adapted = adapt(tiny_folder, options_of(name))
    config = build(LoraOptions, precision="fp32").model_copy(update={"adapter": options_of(name)})
    request = EstimateRequest(
        config=build_tiny_config().to_dict(), tokenizer=None, train=(), test=(), device="cpu",
        assumed=Assumptions(sequence=16, micro_batch=2, rows=8),
    )  # fmt: skip
    setting = EstimateSetting.from_request(config, request)
    assert setting.trainable_parameters == adapted.num_trainable_parameters
    estimate = list(techniques.estimate_supervised(config, request))[-1]
    assert estimate.method == "traced", estimate.notes


def test_layers_that_differ_are_traced_one_by_one() -> None:
    """A deep model, whose middle layers alone would not show the adapters."""
    config = build_tiny_config(changes={"num_hidden_layers": 9}).to_dict()
    request = EstimateRequest(
        config=config, tokenizer=None, train=(), test=(), device="cpu",
        assumed=Assumptions(sequence=16, micro_batch=2, rows=8),
    )  # fmt: skip
    sizes = []
    for adapter in ({}, {"layers": [8]}, {"rank_pattern": {"layers.8.self_attn.q_proj": 64}}):
        options = build(LoraOptions, precision="fp32", adapter={"rank": 4, **adapter})
        estimate = list(techniques.estimate_supervised(options, request))[-1]
        assert estimate.method == "traced", estimate.notes
        sizes.append(estimate.memory["train"].components["adapter"])
    assert sizes[1] * 9 == sizes[0] < sizes[2]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"rank_pattern": {"q_prj": 2}},
            'rank_pattern: no module with an adapter is named "q_prj"',
        ),
        (
            {"alpha_pattern": {"q_prj": 2.0}},
            'alpha_pattern: no module with an adapter is named "q_prj"',
        ),
        ({"layers": [2]}, "layers: 2 does not exist; the last one is 1"),
        ({"trainable_tokens": [440]}, "trainable_tokens: 440 does not exist; the last one is 439"),
    ],
)
def test_names_that_do_not_exist_are_refused(
    tiny_folder: Path, table: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        adapt(tiny_folder, build(AdapterOptions, **table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rank_pattern": {"(": 2}}, r'"\(" is not a regular expression'),
        ({"init": "pissa", "use_dora": True}, "`use_dora` cannot be used with init"),
        ({"init": "olora", "rank_pattern": {"q_proj": 2}}, "`rank_pattern` cannot be used"),
        ({"init": "gaussian", "target_parameters": ["x"]}, "`target_parameters` cannot be used"),
        ({"init": "orthogonal", "rank": 3}, "needs an even `rank`"),
        ({"layers": [0], "target_parameters": ["x"]}, "`layers` cannot be used"),
        ({"trainable_tokens": [1], "modules_to_save": ["lm_head"]}, "are trained with"),
    ],
)
def test_combinations_that_have_no_effect_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(AdapterOptions, **table)


def test_a_changed_base_is_no_reference(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="changes the base model"):
        build(PreferenceOptions, adapter__init="pissa")
    adapted = adapt(tiny_folder, options_of("PiSSA"))
    with pytest.raises(UsageError, match="changes the base model"), reference_policy(adapted):
        pass
    untrained = combine_adapters(copy.copy(adapted))
    assert isinstance(untrained.model, PeftModel)
    assert untrained.model.peft_config["default"].r == 8
