"""Merging: a merged model equals base plus adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tables import build
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import UsageError
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.models import merging as merging
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.merging import MergeOptions, load_training_base, save_merged
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train as run_trainer

CPU = torch.device("cpu")
RECORDS = tuple(
    Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
    for n in range(8)
)
ROWS = [[5, 9, 200, 17], [42, 300, 7]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model whose rows are multiples of a block, so that all layers are quantized."""
    path = save_tiny_model(tmp_path_factory.mktemp("base") / "llama")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    config = AutoConfig.from_pretrained(path, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # larger weights: predictions depend on them, like in a trained model
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(path)
    return path


def train(
    model: Path, out: Path, quantization: Quantization | None = None, **changes: Any
) -> Artifact:
    base = {
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "adapter__rank": 8,
    }
    options: type[SupervisedOptions] = LoraOptions
    if quantization is not None:
        options = QloraOptions
        changes["quantization__bits"] = quantization.bits
        changes["quantization__double_quantization"] = quantization.double_quantization
        changes["gradient_checkpointing"] = False
    config = build(options, **{**base, **changes})
    job: Job[Any] = Job(
        config=config, model=model, train=RECORDS, validation=(), out=out, seed=3, device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"), emit=lambda event: None, technique="test",
    )  # fmt: skip
    return run_trainer(job, SupervisedTask())


@torch.inference_mode()
def next_token_logprobs(model: nn.Module) -> Tensor:
    logits = [model(torch.tensor([ids]), use_cache=False).logits[:, -1] for ids in ROWS]
    return torch.cat([logits_1V.double().log_softmax(-1) for logits_1V in logits])


def mean_kl(true: Tensor, other: Tensor) -> float:
    return float((true.exp() * (true - other)).sum(-1).mean())


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def merge(model: Path, adapter: Path, out: Path, **changes: Any) -> float:
    """Merge; return the KL divergence of the result, read back, from the trained model."""
    options = MergeOptions(**{"device": CPU, "dtype": torch.float32, **changes})
    out.mkdir()
    save_merged(model, adapter, out, options, torch.float32)
    trained = attach_adapter(load_training_base(model, options), adapter)
    return mean_kl(next_token_logprobs(trained), next_token_logprobs(load(out)))


KINDS: dict[str, dict[str, Any]] = {
    "all linear": {},
    "use_rslora": {"adapter__use_rslora": True},
    "use_dora": {"adapter__use_dora": True},
    "trained head": {"adapter__modules_to_save": ["lm_head"]},
    "trained embeddings": {"adapter__modules_to_save": ["embed_tokens"]},
    "trained tokens": {"adapter__trainable_tokens": [5, 42]},
    "PiSSA": {"adapter__init": "pissa"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_lora_merges_into_its_base(folder: Path, tmp_path: Path, kind: str) -> None:
    artifact = train(folder, tmp_path, **KINDS[kind])
    assert merge(folder, artifact.path, tmp_path / "merged") < 1e-9
    model = load(tmp_path / "merged")
    assert mean_kl(next_token_logprobs(load(folder)), next_token_logprobs(model)) > 1e-3
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")


@pytest.mark.parametrize("quantization", [None, Quantization(), Quantization(bits=8)])
def test_layers_with_transposed_weights_merge(
    tmp_path: Path, quantization: Quantization | None
) -> None:
    """GPT-2 has transformers' Conv1D in the place of linear layers."""
    folder = save_tiny_model(tmp_path / "base", "gpt2")
    config = AutoConfig.from_pretrained(folder, n_embd=64)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    artifact = train(folder, tmp_path, quantization)
    adapter = json.loads((artifact.path / "adapter_config.json").read_text())
    assert adapter["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    assert adapter["fan_in_fan_out"] is (quantization is None)
    # With 8 bits, activations are rounded to 8 bits in one of the two.
    kl = merge(folder, artifact.path, tmp_path / "merged", quantization=quantization)
    assert kl < 1e-6
    merged = load(tmp_path / "merged")
    assert mean_kl(next_token_logprobs(load(folder)), next_token_logprobs(merged)) > 1e-5


def test_a_head_that_was_trained_without_the_embeddings_is_untied(
    folder: Path, tmp_path: Path
) -> None:
    """Adapters of other tools may train only the head of a model with tied embeddings."""
    from peft import LoraConfig, get_peft_model

    base = load_base(folder, device=CPU, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    model = get_peft_model(base.model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name and "lm_head" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    assert merge(folder, tmp_path / "adapter", tmp_path / "merged") < 1e-9
    config_ = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config_["tie_word_embeddings"] is False
    assert config_["rope_theta"] == config_["rope_parameters"]["rope_theta"] == 10_000.0
    assert "lm_head.weight" in load_file(tmp_path / "merged" / "model.safetensors")


@pytest.mark.parametrize("double", [True, False])
def test_qlora_merges_into_the_weights_it_was_trained_with(
    folder: Path, tmp_path: Path, double: bool
) -> None:
    quantization = Quantization(double_quantization=double)
    artifact = train(folder, tmp_path, quantization, adapter__modules_to_save=["lm_head"])
    assert merge(folder, artifact.path, tmp_path / "merged", quantization=quantization) < 1e-7


def test_the_config_is_untied_if_the_head_differs_from_the_embeddings(folder: Path) -> None:
    """This holds for every version of PEFT that unloads the adapter."""
    model = load_base(folder, device=CPU, dtype=torch.float32).model
    head = model.get_output_embeddings()
    merging._untie_changed_head(model)
    assert model.config.tie_word_embeddings
    head.weight = torch.nn.Parameter(head.weight + 1)
    merging._untie_changed_head(model)
    assert not model.config.tie_word_embeddings
    assert not torch.equal(head.weight, model.get_input_embeddings().weight)


def test_files_of_another_program_are_refused_before_the_merge(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    for name in ("new", "empty"):
        merging.refuse_other_folder(tmp_path / name, "export", tmp_path / "adapter")
    for name in ("thesis", "thesis/chapter.txt"):
        with pytest.raises(UsageError, match="was not written by tunesmith"):
            merging.refuse_other_folder(tmp_path / name, "export", tmp_path / "adapter")
