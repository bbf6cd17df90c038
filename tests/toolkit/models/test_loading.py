"""Base models are loaded completely and correctly, or refused; devices and precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from tunesmith.errors import EnvironmentProblem, IntegrityError, TunesmithError, UsageError
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.kernels import tree_attention
from tunesmith_torch.models.loading import (
    LoadedBase,
    enable_gradient_checkpointing,
    load_base,
    load_config,
)
from tunesmith_torch.models.model_folder import check_model_folder
from tunesmith_torch.runtime import device
from tunesmith_torch.testing.tiny_model import build_tiny_model, save_tiny_model

CPU = torch.device("cpu")


def load(folder: Path, **options: str) -> LoadedBase:
    return load_base(folder, device=CPU, dtype=torch.float32, **options)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# ------------------------------------------------------------ loading


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2"])
def test_a_saved_model_loads_unchanged(family: str, tmp_path: Path) -> None:
    base = load(save_tiny_model(tmp_path / family, family))
    saved = build_tiny_model(family, vocabulary=len(base.tokenizer)).state_dict()
    assert not base.model.training
    assert base.config.model_type == family
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize(
    ("family", "flags"),
    [
        ("llama", {"output_hidden_states": True}),
        ("llama", {"output_attentions": True}),
        ("llama", {"return_dict": False}),
        ("mixtral", {"output_router_logits": True, "router_aux_loss_coef": 0.01}),
    ],
    ids=str,
)
def test_a_config_that_asks_for_more_outputs_is_loaded_without_them(
    tmp_path: Path, family: str, flags: dict[str, object]
) -> None:
    """Scores and answers need hidden states and logits, and nothing else."""
    folder = save_tiny_model(tmp_path / family, family)
    edit_config(folder, **flags)
    for attention in ("sdpa", tree_attention.register_tree_attention()):
        base = load(folder, attention=attention)
        text = TorchTextModel(base.model, Template.from_tokenizer(base.tokenizer), CPU)
        prompts = ["one two", "three", "four five six seven"]
        assert len(text.score(prompts, ["a b", "c", "d"])) == 3
        assert len(text.generate(prompts, 4)) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("foo9", f"model_type is 'foo9', which transformers {transformers.__version__} does not"),
        (None, "model_type is None, which transformers"),
        (["llama"], r"model_type is \['llama'\], which transformers"),
        ("t5", "has no causal language model of type `t5`"),
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [load, load_config])
def test_a_model_type_that_transformers_lacks_is_refused(
    folder: Path, read: Callable[[Path], object], name: object, text: str
) -> None:
    edit_config(folder, model_type=name)
    with pytest.raises(EnvironmentProblem, match=f"config.json: .*{text}") as caught:
        read(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 33},
        {"rms_norm_eps": "small"},
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
        {"layer_types": ["foo", "bar"]},
        {"id2label": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [load, load_config])
def test_a_config_that_transformers_refuses_is_named(
    folder: Path, read: Callable[[Path], object], changes: dict[str, object]
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(IntegrityError, match=r"config\.json: "):
        read(folder)


def test_a_config_that_fits_no_layer_is_refused(folder: Path) -> None:
    for changes in ({"hidden_act": "foo"}, {"pad_token_id": 9999}):
        edit_config(folder, **changes)
        with pytest.raises(IntegrityError, match="the model cannot be built"):
            load(folder)


def test_tied_embeddings_are_one_tensor(tiny_folder: Path) -> None:
    model = load(tiny_folder).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_dtype_is_as_requested_and_progress_bars_are_restored(
    tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.enable_progress_bar()
    base = load_base(tiny_folder, device=CPU, dtype=torch.bfloat16)
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_special_ids_are_saved(tiny_folder: Path, tmp_path: Path) -> None:
    base = load(tiny_folder)
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = {
            getattr(x, name) for x in (base.tokenizer, base.config, base.model.generation_config)
        }
        after = {
            getattr(x, name) for x in (again.tokenizer, again.config, again.model.generation_config)
        }
        assert ids == after
        assert len(ids) == 1


# ------------------------------------------------------------ refused folders


def _remove_tensor(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def _add_tensor(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"model.layers.9.x": torch.ones(2)}))


def _wrong_shape(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}))


def _not_finite(value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        edit_weights(folder, lambda t: t["model.layers.0.mlp.up_proj.weight"][3, 3:4].fill_(value))

    return damage


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _truncate_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:30])


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _index(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        index = {"weight_map": {"model.norm.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], object], type[TunesmithError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), EnvironmentProblem, "no config.json"),
    "config is not JSON": (
        lambda f: (f / "config.json").write_text("{"), IntegrityError, "invalid JSON"
    ),
    "own code": (
        lambda f: edit_config(f, auto_map={"AutoModel": "x.Y"}), EnvironmentProblem, "auto_map"
    ),
    "negative": (lambda f: edit_config(f, hidden_size=-1), IntegrityError, "hidden_size"),
    "absurd": (lambda f: edit_config(f, vocab_size=10**12), IntegrityError, "vocab_size"),
    "many layers": (
        lambda f: edit_config(f, num_hidden_layers=10_000), IntegrityError, "num_hidden_layers"
    ),
    "many layers in a part": (
        lambda f: edit_config(f, text_config={"num_hidden_layers": 10_000}),
        IntegrityError,
        r"text_config\.num_hidden_layers",
    ),
    "another name": (lambda f: edit_config(f, n_layer=10_000), IntegrityError, "n_layer"),
    "a list": (
        lambda f: edit_config(f, intermediate_size=[128, 10**9]), IntegrityError, "intermediate"
    ),
    "more words than weights": (
        lambda f: edit_config(f, vocab_size=9_000_000, hidden_size=900_000),
        IntegrityError,
        "vocab_size and the widths require 8,100,000,000,000 weights or more",
    ),
    "more layers than weights": (
        lambda f: edit_config(f, num_hidden_layers=900, intermediate_size=9_000_000),
        IntegrityError,
        "num_hidden_layers and the widths require",
    ),
    "text": (lambda f: edit_config(f, num_hidden_layers="2"), IntegrityError, "num_hidden_layers"),
    "only pickled": (_pickled, EnvironmentProblem, "only pickled weights"),
    "index out of the folder": (_index("../../etc/x.safetensors"), IntegrityError, "plain name"),
    "index to a pickle": (_index("pytorch_model.bin"), EnvironmentProblem, "only safetensors"),
    "part is missing": (_index("a.safetensors"), IntegrityError, "missing"),
    "cut short": (_truncate, IntegrityError, "model.safetensors: not a complete"),
    "cut in the header": (_truncate_header, IntegrityError, "model.safetensors: not a complete"),
    "tensor missing": (_remove_tensor, IntegrityError, r"missing from the files.*up_proj"),
    "tensor left over": (_add_tensor, IntegrityError, r"not in the model.*layers.9.x"),
    "wrong shape": (_wrong_shape, IntegrityError, r"different shape.*model.norm"),
    "nan": (_not_finite(float("nan")), IntegrityError, r"up_proj.*not finite"),
    "infinite": (_not_finite(float("inf")), IntegrityError, r"up_proj.*not finite"),
    "no tokenizer": (
        lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")],
        EnvironmentProblem,
        "tokenizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_with_the_reason(name: str, folder: Path) -> None:
    damage, error, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(error, match=message):
        load(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="no such folder"):
        load(tmp_path / "nothing")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path) -> None:
    tokenizer = load(folder).tokenizer
    tokenizer.add_tokens(["<one-more>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(IntegrityError, match="the tokenizer has"):
        load(folder)


def test_a_sharded_model_is_loaded(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
    mapping = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": mapping}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check_model_folder(folder)
    load(folder)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint32, torch.int32])
def test_a_quantized_model_stores_integers(folder: Path, dtype: torch.dtype) -> None:
    """MLX packs several weights into 32 bits; bitsandbytes stores bytes."""
    edit_config(folder, quantization_config={"bits": 8, "group_size": 32})
    with pytest.raises(IntegrityError, match="none of the weights is quantized"):
        check_model_folder(folder)
    edit_weights(folder, lambda tensors: tensors.update(packed=torch.zeros(4, dtype=dtype)))
    check_model_folder(folder)


# ------------------------------------------------------------ device and precision


def test_an_architecture_without_gradient_checkpointing_is_named() -> None:
    config = transformers.OpenAIGPTConfig(
        vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=1
    )
    model = transformers.OpenAIGPTLMHeadModel(config)
    with pytest.raises(EnvironmentProblem, match="not support it for OpenAIGPTLMHeadModel"):
        enable_gradient_checkpointing(model)


def test_the_cpu_is_always_available() -> None:
    assert device.pick_device("cpu") == CPU
    assert device.pick_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "cuda:-1", ""])
def test_an_unknown_device_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        device.pick_device(name)


def test_an_unavailable_device_is_an_environment_problem() -> None:
    with pytest.raises(EnvironmentProblem, match="on this machine"):
        device.pick_device("cuda:99")


@pytest.mark.parametrize(
    ("flags", "dtype", "why"),
    [
        ({"avx512f"}, torch.float32, "does not compute"),
        ({"avx512f", "avx512_bf16"}, torch.bfloat16, "avx512_bf16"),
        ({"avx512_bf16", "avx512_fp16"}, torch.float32, "does not compute faster"),
        ({"avx512_bf16", "avx512_fp16", "amx_bf16"}, torch.bfloat16, "amx_bf16"),
        ({"amx_bf16"}, torch.bfloat16, "amx_bf16"),
    ],
)
def test_precision_follows_the_cpu_flags(flags: set[str], dtype: torch.dtype, why: str) -> None:
    precision = device.pick_precision(CPU, cpu_flags=frozenset(flags))
    assert precision.dtype == dtype
    assert why in precision.reason
    assert device.pick_precision(CPU, "fp32").dtype == torch.float32
    assert device.pick_precision(CPU, "bf16").name == "bfloat16"
