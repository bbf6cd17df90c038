"""A folder of a model, a tokenizer or an adapter brings no code and makes nothing download any."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import import_utils

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.kernels import tree_attention
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.loading import load_base, load_config, load_tokenizer
from tunesmith_torch.models.model_folder import check_model_folder
from tunesmith_torch.untrusted.foreign_code import (
    MAX_CONFIG_BYTES,
    named_attention,
    read_json_object,
    refuse_foreign_code,
    refuse_foreign_keys,
)

CPU = torch.device("cpu")
HUB_KERNEL = "kernels-community/evil"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit(path: Path, **changes: object) -> Path:
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **changes}))
    return path


def load(folder: Path) -> Any:
    return load_base(folder, device=CPU, dtype=torch.float32)


# ------------------------------------------------------------ config.json

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "own code": ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
    "code is trusted": ({"trust_remote_code": True}, "trust_remote_code"),
    "generation": ({"custom_generate": "someone/code"}, "custom_generate"),
    "a pipeline": ({"custom_pipelines": {"x": {"impl": "x.Y"}}}, "custom_pipelines"),
    "kernel": ({"attn_implementation": HUB_KERNEL}, "attn_implementation"),
    "kernel, private key": ({"_attn_implementation": HUB_KERNEL}, "_attn_implementation"),
    "kernel, internal key": (
        {"_attn_implementation_internal": HUB_KERNEL}, "_attn_implementation_internal"
    ),
    "paged kernel": ({"attn_implementation": f"paged|{HUB_KERNEL}"}, "attn_implementation"),
    "kernel of a revision": (
        {"attn_implementation": f"{HUB_KERNEL}@main:attention"}, "attn_implementation"
    ),
    "kernel of a part": (
        {"attn_implementation": {"text_config": HUB_KERNEL}}, "attn_implementation"
    ),
    "kernel in a part": (
        {"text_config": {"_attn_implementation": HUB_KERNEL}}, "text_config._attn_implementation"
    ),
    "kernel in a list": (
        {"parts": [{"attn_implementation": HUB_KERNEL}]}, "parts.attn_implementation"
    ),
    "no name at all": ({"attn_implementation": [HUB_KERNEL]}, "attn_implementation"),
    "experts": ({"experts_implementation": "sonicmoe"}, "experts_implementation"),
    "quantization": ({"quantization_config": {"quant_method": "mxfp4"}}, "quantization_config"),
    "compression": (
        {"compression_config": {"quant_method": "compressed-tensors"}}, "compression_config"
    ),
    "other weights": ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
    "a backbone": ({"use_pretrained_backbone": True}, "use_pretrained_backbone"),
    "tokenizer class": ({"tokenizer_class": "someone/code--x.Y"}, "tokenizer_class"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_brings_code_is_refused_with_file_and_key(case: str, folder: Path) -> None:
    changes, key = CONFIGS[case]
    path = edit(folder / "config.json", **changes)
    for reader in (check_model_folder, load_config, load, load_tokenizer):
        with pytest.raises(EnvironmentProblem) as caught:
            reader(folder)
        assert caught.value.message.startswith(f"{path}: {key}: ")
        assert caught.value.hint


@pytest.mark.parametrize(
    ("file", "changes", "key"),
    [
        ("generation_config.json", {"custom_generate": "someone/code"}, "custom_generate"),
        ("generation_config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "auto_map"),
        ("tokenizer_config.json", {"tokenizer_class": "x.Y"}, "tokenizer_class"),
        ("tokenizer_config.json", {"tokenizer_class": ["X"]}, "tokenizer_class"),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "x.Y"}}, "auto_map"),
    ],
)
def test_other_files_that_bring_code_are_refused(
    folder: Path, file: str, changes: dict[str, Any], key: str
) -> None:
    path = edit(folder / file, **changes)
    for reader in (load, load_tokenizer):
        with pytest.raises(EnvironmentProblem) as caught:
            reader(folder)
        assert caught.value.message.startswith(f"{path}: {key}: ")


def test_harmless_configs_pass() -> None:
    for config in (
        {"auto_map": None, "trust_remote_code": False, "auto_map_": "x"},
        {"attn_implementation": "eager", "_attn_implementation": None},
        {"attn_implementation": {"": "sdpa", "text_config": None}},
        {"_attn_implementation": "flash_attention_2", "_attn_implementation_autoset": True},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": None, "experts_implementation": "grouped_mm"},
        {"tokenizer_class": "LlamaTokenizerFast", "id2label": {"auto_map": "a label"}},
        {"megatron_config": None, "megatron_core": "megatron.core"},
    ):
        refuse_foreign_keys(config, Path("config.json"))


def test_flash_attention_of_a_config_is_not_followed(folder: Path) -> None:
    """transformers would need the package flash-attn, or download a kernel in its place."""
    edit(folder / "config.json", _attn_implementation="flash_attention_2")
    assert load(folder).model.config._attn_implementation == "sdpa"
    assert named_attention({"a": [{"attn_implementation": {"b": "x", "c": None}}]}) == {"x"}


def test_the_attention_for_packed_rows_replaces_the_one_of_a_config(folder: Path) -> None:
    """With the config's own one, packed rows would attend to each other."""
    edit(folder / "config.json", _attn_implementation="eager")
    assert load(folder).model.config._attn_implementation == "eager"
    packed = load_base(
        folder, device=CPU, dtype=torch.float32, attention=tree_attention.register_tree_attention()
    ).model
    assert packed.config._attn_implementation == tree_attention.register_tree_attention()


def test_a_model_folder_with_an_adapter_is_refused(folder: Path) -> None:
    """transformers adds such an adapter to the model silently."""
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="x/y")
    with pytest.raises(EnvironmentProblem, match=r"adapter_config\.json"):
        load(folder)


def test_python_files_of_a_folder_are_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    code = f"open({str(marker)!r}, 'w').close()\n"
    (folder / "custom_generate").mkdir()
    for name in ("modeling_llama.py", "tokenization_llama.py", "custom_generate/generate.py"):
        (folder / name).write_text(code)
    model = load(folder).model
    model.generate(torch.tensor([[1, 2]]), max_new_tokens=1)
    assert not marker.exists()


# ------------------------------------------------------------ what transformers would do


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A stand-in for the hub's client of kernels, which records what it is asked for."""
    from transformers import modeling_utils
    from transformers.integrations import hub_kernels

    asked: list[str] = []

    def get_kernel(name: str, *args: Any, **options: Any) -> Any:
        asked.append(name)
        return SimpleNamespace(__name__=name)

    for module in (modeling_utils, hub_kernels, import_utils):
        monkeypatch.setattr(module, "is_kernels_available", lambda *args: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", get_kernel)
    yield asked


def test_transformers_itself_would_download_the_kernel(folder: Path, kernels: list[str]) -> None:
    """The premise of this module: the fault that it prevents exists in transformers."""
    edit(folder / "config.json", attn_implementation=HUB_KERNEL)
    try:
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the stand-in is no kernel; what counts is that it was asked for
        assert kernels, error
    assert set(kernels) == {HUB_KERNEL}
    kernels.clear()
    with pytest.raises(EnvironmentProblem):
        load(folder)
    assert kernels == []


# ------------------------------------------------------------ files


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text in ("{", "[]", "[" * 100_000, "\udc80"):
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(IntegrityError, match=r"config\.json"):
            refuse_foreign_code(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as stream:
        stream.truncate(MAX_CONFIG_BYTES + 1)
    with pytest.raises(IntegrityError, match="must have at most"):
        read_json_object(path)


# ------------------------------------------------------------ adapters


@pytest.fixture
def adapter(tmp_path: Path, tiny_folder: Path) -> Path:
    """The folder of a small LoRA adapter, as PEFT writes it."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load(tiny_folder).model, LoraConfig(r=2, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"megatron_config": {"x": 1}, "megatron_core": "antigravity"}, "megatron_config"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs.trust_remote_code"),
        ({"tokenizer_name_or_path": "someone/code"}, "tokenizer_name_or_path"),
        ({"peft_type": "XLORA", "adapters": {"a": "someone/adapter"}}, "adapters"),
        (
            {"prompt_tuning_init_state_dict_path": "x.bin"}, "prompt_tuning_init_state_dict_path"
        ),
        ({"peft_type": "SHADOW", "shadow_model": "someone/model"}, "shadow_model"),
    ],
)  # fmt: skip
def test_an_adapter_that_brings_code_is_refused(
    adapter: Path, tiny_folder: Path, changes: dict[str, Any], key: str
) -> None:
    base = load(tiny_folder)
    assert artifacts.attach_adapter(base, adapter)
    path = edit(adapter / "adapter_config.json", **changes)
    with pytest.raises(EnvironmentProblem) as caught:
        artifacts.attach_adapter(load(tiny_folder), adapter)
    assert caught.value.message.startswith(f"{path}: {key}: ")


def test_a_pickled_adapter_is_not_read(adapter: Path, tiny_folder: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        artifacts.attach_adapter(load(tiny_folder), adapter)
