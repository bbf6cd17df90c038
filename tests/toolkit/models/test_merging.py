"""Merging: a merged model equals base plus adapter, or is not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tables import build
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import GateError, IntegrityError
from tunesmith.records import Completion, Message, Prompt
from tunesmith.storage import Checkpoints, verify_folder
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.models import merging as merging
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.merging import (
    MergedModel,
    MergeOptions,
    mean_kl,
    merge_adapter,
    next_token_logprobs,
)
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.testing.tiny_model import save_tiny_model, tiny_tokenizer
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train as run_trainer

CPU = torch.device("cpu")
RECORDS = tuple(
    Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
    for n in range(8)
)
PROMPTS: list[Prompt] = [(Message("user", f"What is {n}?"),) for n in range(12)]
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


def merge(model: Path, artifact: Artifact, out: Path, **changes: Any) -> MergedModel:
    options = MergeOptions(**{"device": CPU, "dtype": torch.float32, **changes})
    return merge_adapter(model, artifact.path, out, PROMPTS, options)


KINDS: dict[str, dict[str, Any]] = {
    "all linear": {},
    "use_rslora": {"adapter__use_rslora": True},
    "use_dora": {"adapter__use_dora": True},
    "trained head": {"adapter__modules_to_save": ["lm_head"]},
    "trained embeddings": {"adapter__modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_lora_merges_into_its_base(folder: Path, tmp_path: Path, kind: str) -> None:
    artifact = train(folder, tmp_path, **KINDS[kind])
    result = merge(folder, artifact, tmp_path / "merged")
    assert result.kl < 1e-9
    assert verify_folder(result.path) == []
    model = load_base(result.path, device=CPU, dtype=torch.float32).model
    plain = load_base(folder, device=CPU, dtype=torch.float32).model
    assert mean_kl(next_token_logprobs(plain, ROWS), next_token_logprobs(model, ROWS)) > 1e-3
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert "lm_head.weight" not in load_file(result.path / "model.safetensors")


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
    result = merge(folder, artifact, tmp_path / "merged", quantization=quantization)
    assert result.kl < 1e-6  # with 8 bits, activations are rounded to 8 bits in one of the two
    base = load_base(folder, device=CPU, dtype=torch.float32).model
    merged = load_base(result.path, device=CPU, dtype=torch.float32).model
    assert mean_kl(next_token_logprobs(base, ROWS), next_token_logprobs(merged, ROWS)) > 1e-5


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
    adapter = tmp_path / "adapter"
    from tunesmith.storage import commit_folder

    def write(path: Path) -> None:
        model.save_pretrained(path, save_embedding_layers=False)
        tiny_tokenizer().save_pretrained(path)
        base.model.generation_config.save_pretrained(path)

    commit_folder(adapter, write)
    result = merge(folder, Artifact(path=adapter, format="adapter"), tmp_path / "merged")
    config_ = json.loads((result.path / "config.json").read_text())
    assert config_["tie_word_embeddings"] is False
    assert config_["rope_theta"] == config_["rope_parameters"]["rope_theta"] == 10_000.0
    assert "lm_head.weight" in load_file(result.path / "model.safetensors")
    assert result.kl < 1e-9


@pytest.mark.parametrize("double", [True, False])
def test_qlora_merges_into_the_weights_it_was_trained_with(
    folder: Path, tmp_path: Path, double: bool
) -> None:
    quantization = Quantization(double_quantization=double)
    artifact = train(folder, tmp_path, quantization, adapter__modules_to_save=["lm_head"])
    result = merge(folder, artifact, tmp_path / "merged", quantization=quantization)
    assert result.kl < 1e-7
    other = merge(
        folder,
        artifact,
        tmp_path / "other",
        quantization=quantization,
        into="original",
        max_kl=10.0,
    )
    assert other.kl > 1e-3


def test_a_merge_that_differs_too_much_writes_nothing(folder: Path, tmp_path: Path) -> None:
    quantization = Quantization()
    artifact = train(folder, tmp_path, quantization)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        GateError, match=r"nats from the trained model.*nothing was written"
    ) as caught:
        merge(folder, artifact, tmp_path / "merged", quantization=quantization, into="original")
    assert caught.value.hint is not None and "dequantized" in caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before


def test_bf16_weights_merge_within_the_default_limit(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "bf16"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(folder).save_pretrained(base)
    artifact = train(base, tmp_path, Quantization(), precision="bf16")
    result = merge(
        base, artifact, tmp_path / "m", quantization=Quantization(), dtype=torch.bfloat16
    )
    assert result.dtype == "bfloat16"
    assert result.kl < 2e-5  # 4e-5 if the trained side computes in bf16
    assert {t.dtype for t in load_file(result.path / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_special_ids_and_tokenizer_are_kept(folder: Path, tmp_path: Path) -> None:
    artifact = train(folder, tmp_path)
    result = merge(folder, artifact, tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (result.path / name).read_bytes() == (artifact.path / name).read_bytes()
    configs = [AutoConfig.from_pretrained(path) for path in (folder, result.path)]
    generation = [GenerationConfig.from_pretrained(w) for w in (artifact.path, result.path)]
    tokenizers = [AutoTokenizer.from_pretrained(w) for w in (folder, artifact.path, result.path)]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for group in (configs, generation, tokenizers):
            assert len({str(getattr(one, key)) for one in group}) == 1, key
    assert len({one.chat_template for one in tokenizers}) == 1
    names = {file.name for file in result.path.iterdir()}
    assert not any("adapter" in name or name.endswith((".bin", ".pt")) for name in names)
    assert "nats" in (result.path / "README.md").read_text()


def test_a_damaged_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    artifact = train(folder, tmp_path)
    with (artifact.path / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x40")
    with pytest.raises(IntegrityError, match="SHA-256"):
        merge(folder, artifact, tmp_path / "merged")


def test_the_comparison_uses_the_model_as_read_from_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is saved without its adapter is detected."""
    artifact = train(folder, tmp_path)
    plain = load_base(folder, device=CPU, dtype=torch.float32).model
    monkeypatch.setattr(merging, "_merge", lambda *_: plain)
    with pytest.raises(GateError):
        merge(folder, artifact, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_mean_kl_is_zero_for_equal_distributions_and_grows_with_the_difference() -> None:
    a = torch.randn(3, 50).double().log_softmax(-1)
    assert mean_kl(a, a) == 0
    assert mean_kl(a, (a * 1.1).log_softmax(-1)) < mean_kl(a, (a * 2).log_softmax(-1))


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
