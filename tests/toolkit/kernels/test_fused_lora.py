"""Fused LoRA layers give PEFT's values, gradients and files, and use PEFT's forward elsewhere."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from safetensors.torch import load_file
from torch import Tensor, nn

from tunesmith_torch.kernels import fused_lora, lora_autograd
from tunesmith_torch.kernels.fused_lora import FusedLoraLinear
from tunesmith_torch.runtime.bitsandbytes import import_bitsandbytes
from tunesmith_torch.testing.tiny_model import build_tiny_model


class TwoLayers(nn.Module):
    """Two linear layers, the first with a bias; gradients pass through both."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 40), nn.Linear(40, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.up(x)))
        return out


def with_adapters(model: nn.Module, fused: bool, **changes: Any) -> PeftModel:
    targets = changes.pop("target_modules", ["up", "down"])
    config = LoraConfig(r=4, lora_alpha=7, target_modules=targets, **changes)
    if fused:
        fused_lora.register_fused_lora(config, model)
    torch.manual_seed(5)
    peft_model = get_peft_model(copy.deepcopy(model), config).train()
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:  # zero at first, and then half of the gradients would be too
            nn.init.normal_(parameter, std=0.3)
    return peft_model


def result(model: nn.Module, x: Tensor, **context: Any) -> dict[str, Tensor]:
    """Return the output, and gradients of the sum of its sine by input and trained weights."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, **{"enabled": False, **context}):
        y = model(x)
    y.float().sin().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"y": y, "x": x.grad, **grads}


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("shape", [(6, 24), (2, 5, 24)])
def test_values_and_gradients_equal_pefts(shape: tuple[int, ...], use_rslora: bool) -> None:
    torch.manual_seed(0)
    base, x = TwoLayers().double(), torch.randn(*shape, dtype=torch.float64)
    expected = result(with_adapters(base, False, use_rslora=use_rslora), x)
    actual = result(with_adapters(base, True, use_rslora=use_rslora), x)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-6, atol=1e-6, msg=name)


def test_bf16_errors_are_not_larger_than_pefts() -> None:
    """Errors against fp64 are compared, because results that round differently never agree."""
    torch.manual_seed(0)
    base, x = TwoLayers(), torch.randn(64, 24)
    exact = result(with_adapters(base.double(), True), x.double())
    base = base.to(torch.bfloat16)
    peft = result(with_adapters(base, False), x.bfloat16(), enabled=True)
    fused = result(with_adapters(base, True), x.bfloat16())
    for name, tensor in exact.items():
        peft_error, fused_error = (
            (t[name].double() - tensor).norm() / tensor.norm() for t in (peft, fused)
        )
        assert fused_error < 1.3 * peft_error + 1e-3, (name, fused_error, peft_error)
    assert fused["y"].dtype == torch.bfloat16
    assert all(fused[name].dtype == torch.float32 for name in fused if "lora" in name)


def test_a_frozen_input_gets_no_gradient_and_autocast_has_no_effect() -> None:
    model = with_adapters(TwoLayers(), True)
    x = torch.randn(6, 24)
    plain = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.base_model.model.up(x), model.base_model.model.up(x))
    plain.sum().backward()
    assert x.grad is None


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each call of the fused function."""
    calls: list[str] = []
    original = lora_autograd.LoraFunction.apply

    def apply(*args: Any) -> Any:
        calls.append("fused")
        return original(*args)

    monkeypatch.setattr(lora_autograd.LoraFunction, "apply", apply)
    return calls


@pytest.mark.parametrize(
    "changes", [{"lora_dropout": 0.2}, {"use_dora": True}, {"lora_bias": True}], ids=str
)
def test_unsupported_adapters_use_pefts_forward(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    calls = record_calls(monkeypatch)
    base, x = TwoLayers(), torch.randn(6, 24)
    if "lora_bias" in changes:
        base.down = nn.Linear(40, 24)
    models = [with_adapters(base, fused, **changes) for fused in (False, True)]
    for model in models:
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B.default.bias"):
                nn.init.ones_(parameter)
    outputs = []
    for model in models:
        torch.manual_seed(9)
        outputs.append(model(x))
    torch.testing.assert_close(outputs[1], outputs[0])
    assert not calls


def test_adapters_with_dropout_are_fused_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_calls(monkeypatch)
    base, x = TwoLayers(), torch.randn(6, 24)
    peft_model, fused_model = (
        with_adapters(base, fused, lora_dropout=0.5).eval() for fused in (False, True)
    )
    torch.testing.assert_close(fused_model(x), peft_model(x))
    assert len(calls) == 2


def test_disabled_and_merged_adapters_use_pefts_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    base, x = TwoLayers(), torch.randn(6, 24)
    model = with_adapters(base, True)
    original = model(x)
    calls = record_calls(monkeypatch)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), base(x))
    model.merge_adapter()
    torch.testing.assert_close(model(x), original, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    assert not calls
    torch.testing.assert_close(model(x), original, rtol=1e-4, atol=1e-5)
    assert len(calls) == 2


def with_second(model: PeftModel, targets: list[str]) -> PeftModel:
    """Add a trained adapter of another rank and scale to the first, which is frozen."""
    config = LoraConfig(r=2, lora_alpha=5, target_modules=targets)
    torch.manual_seed(6)
    model.add_adapter("second", config)
    model.base_model.set_adapter(["default", "second"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".second." in name)
        if "lora_B.second" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("targets", [["up", "down"], ["down"]], ids=str)
def test_several_adapters_are_computed_as_one(
    monkeypatch: pytest.MonkeyPatch, targets: list[str]
) -> None:
    base, x = TwoLayers().double(), torch.randn(6, 24, dtype=torch.float64)
    expected = result(with_second(with_adapters(base, False), targets), x)
    model = with_second(with_adapters(base, True), targets)
    calls = record_calls(monkeypatch)
    actual = result(model, x)
    assert len(calls) == 2
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    model.base_model.set_adapter("default")
    torch.testing.assert_close(model(x), with_adapters(base, True)(x), rtol=1e-6, atol=1e-6)


class Attention(nn.Module):
    """Three layers that read one input and differ in width, as with grouped keys."""

    def __init__(self, *, different_input: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(24, 16), nn.Linear(24, 8, bias=False)
        self.v_proj, self.o_proj = nn.Linear(24, 8), nn.Linear(16, 24)
        self.different_input = different_input
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        q = self.q_proj(x)
        if self.fails:
            raise MemoryError
        other = x.tanh() if self.different_input else x
        k, v = self.k_proj(other), self.v_proj(x)
        out: Tensor = self.o_proj(q * torch.cat([k * v, k - v], -1))
        return out


QKV = ["q_proj", "k_proj", "v_proj"]


def peft_and_fused(base: nn.Module, targets: list[str]) -> tuple[PeftModel, PeftModel]:
    """Return a model with PEFT's layers, and one with fused layers grouped by input."""
    peft_model, fused_model = (
        with_adapters(base, fused, target_modules=targets) for fused in (False, True)
    )
    fused_lora.group_by_input(fused_model)
    return peft_model, fused_model


def assert_same(fused_model: nn.Module, peft_model: nn.Module, x: Tensor) -> None:
    expected, actual = result(peft_model, x), result(fused_model, x)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    for model in (fused_model, peft_model):
        model.zero_grad(set_to_none=True)


def input_of(base: nn.Module) -> Tensor:
    base.double()
    return torch.randn(2, 5, 24, dtype=torch.float64)


@pytest.mark.parametrize(
    ("targets", "products"),
    [(QKV, 1), ([*QKV, "o_proj"], 2), (["q_proj", "v_proj"], 1), (["k_proj", "o_proj"], 2)],
    ids=str,
)
def test_layers_of_one_input_are_computed_together(
    monkeypatch: pytest.MonkeyPatch, targets: list[str], products: int
) -> None:
    base = Attention()
    x = input_of(base)
    peft_model, fused_model = peft_and_fused(base, targets)
    calls = record_calls(monkeypatch)
    for number in (1, 2):
        assert_same(fused_model, peft_model, x)
        assert len(calls) == number * products


def test_a_layer_with_an_input_hook_is_computed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last layer has such hooks: its queries are computed at some positions only."""
    base = Attention()
    x = input_of(base)
    peft_model, fused_model = peft_and_fused(base, QKV)
    calls = record_calls(monkeypatch)
    for model in (peft_model, fused_model):
        queries = model.base_model.model.q_proj
        queries.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    assert_same(fused_model, peft_model, x)
    assert len(calls) == 2


def test_a_layer_that_reads_another_input_leaves_its_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = Attention(different_input=True)
    x = input_of(base)
    peft_model, fused_model = peft_and_fused(base, QKV)
    calls = record_calls(monkeypatch)
    for _ in range(2):
        assert_same(fused_model, peft_model, x)
    assert fused_model.base_model.model.k_proj.input_group is None
    assert len(calls) == 4


def test_results_of_an_interrupted_pass_are_not_used() -> None:
    base = Attention()
    x = input_of(base)
    peft_model, fused_model = peft_and_fused(base, QKV)
    fused_model.base_model.model.fails = True
    with pytest.raises(MemoryError):
        fused_model(x)
    fused_model.base_model.model.fails = False
    for _ in range(2):  # the same tensor once more, and after the weights have moved
        with torch.no_grad():
            for model in (peft_model, fused_model):
                for parameter in model.parameters():
                    parameter.mul_(1.5)
        assert_same(fused_model, peft_model, x)


def test_memory_of_an_interrupted_pass_is_freed() -> None:
    """A cached result that is not fetched would keep the activations of all earlier layers."""
    base = Attention()
    x = input_of(base).requires_grad_()
    fused_model = peft_and_fused(base, QKV)[1]
    fused_model.base_model.model.fails = True
    activation = x.exp()
    reference = weakref.ref(activation)
    with pytest.raises(MemoryError):
        fused_model(activation)
    del activation
    fused_lora.clear_caches(fused_model)
    gc.collect()
    assert reference() is None


def test_an_output_that_is_not_used_gets_no_gradient() -> None:
    base = Attention()
    x = input_of(base)
    results = []
    for model in peft_and_fused(base, QKV):
        inner = model.base_model.model
        (inner.q_proj(x).sin().sum() + 0 * inner.v_proj(x).sum()).backward()
        inner.k_proj(x)
        results.append([p.grad for n, p in model.named_parameters() if "q_proj.lora" in n])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_of_a_full_model_equal_those_with_pefts_layers(
    gradient_checkpointing: bool,
) -> None:
    base, ids = build_tiny_model(), torch.arange(3, 40)[None]
    target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    grads = []
    for model in peft_and_fused(base, target_modules):
        if gradient_checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(ids, labels=ids).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert len(grads[0]) == len(grads[1]) > 0
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6, msg=name)


def in_4_bits(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Quantize the model's linear layers to NF4."""
    package = import_bitsandbytes()
    for name, layer in list(model.named_children()):
        sizes = layer.in_features, layer.out_features, layer.bias is not None
        quantized = package.nn.Linear4bit(*sizes, compute_dtype=dtype, quant_type="nf4")
        quantized.load_state_dict(layer.to(dtype).state_dict())
        quantized.support_avx512bf16_for_cpu = False
        setattr(model, name, quantized.to("cpu"))
    model.is_loaded_in_4bit = True  # PEFT reads it
    return model.requires_grad_(False)


class WideAttention(Attention):
    """The same layers with widths that are multiples of the 64 weights of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(128, 128), nn.Linear(128, 64, bias=False)
        self.v_proj, self.o_proj = nn.Linear(128, 64), nn.Linear(128, 128)


def test_4_bit_layers_give_pefts_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base, x = in_4_bits(WideAttention(), torch.float32), torch.randn(2, 5, 128)
    peft_model, fused_model = peft_and_fused(base, [*QKV, "o_proj"])
    calls = record_calls(monkeypatch)
    expected, actual = result(peft_model, x), result(fused_model, x)
    assert len(calls) == 2
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-5, atol=1e-5, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(fused_model(x), expected["y"], rtol=1e-5, atol=1e-5)
    with fused_model.disable_adapter():
        torch.testing.assert_close(fused_model(x), base(x), rtol=1e-5, atol=1e-5)


def test_4_bit_layers_in_bf16_have_no_larger_errors_than_pefts() -> None:
    torch.manual_seed(0)
    base, x = in_4_bits(WideAttention(), torch.float32), torch.randn(64, 128)
    exact = result(with_adapters(base, False, target_modules=QKV), x)
    half = copy.deepcopy(base)
    for layer in half.children():
        layer.compute_dtype = layer.weight.quant_state.dtype = torch.bfloat16
        layer.bias = None if layer.bias is None else nn.Parameter(layer.bias.bfloat16(), False)
    peft_model, fused_model = peft_and_fused(half, QKV)
    peft, fused = (result(m, x.bfloat16(), enabled=True) for m in (peft_model, fused_model))
    for name, tensor in exact.items():
        peft_error, fused_error = (
            (t[name].float() - tensor).norm() / tensor.norm() for t in (peft, fused)
        )
        assert fused_error < 1.3 * peft_error + 1e-3, (name, fused_error, peft_error)


def test_a_4_bit_weight_is_not_kept_for_the_backward_pass() -> None:
    base, x = in_4_bits(WideAttention(), torch.float32), torch.randn(5, 128)
    sizes = []
    model = peft_and_fused(base, QKV)[1]

    def pack(tensor: Tensor) -> Tensor:
        sizes.append((tensor.dtype, tensor.numel()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    assert (torch.uint8, 128 * 128 // 2) in sizes
    assert max(count for dtype, count in sizes if dtype != torch.uint8) < 128 * 64


def test_a_model_with_other_linear_layers_keeps_pefts_layers() -> None:
    """Quantized layers are subclasses of nn.Linear, and PEFT picks layers by isinstance."""

    class Quantized(nn.Linear):
        pass

    base = TwoLayers()
    base.up = Quantized(24, 40)
    kinds = {type(m) for m in with_adapters(base, True).modules() if isinstance(m, PeftLinear)}
    assert kinds == {PeftLinear}
    assert {
        type(m) for m in with_adapters(TwoLayers(), True).modules() if isinstance(m, PeftLinear)
    } == {FusedLoraLinear}


def test_saved_files_equal_pefts(tmp_path: Path) -> None:
    """Same names, same values, same config; loaded by plain PEFT with the same result."""
    base = build_tiny_model()
    models = [
        with_adapters(base, fused, target_modules=["q_proj", "down_proj"])
        for fused in (False, True)
    ]
    for model, name in zip(models, ("peft", "fused"), strict=True):
        model.save_pretrained(tmp_path / name)
    peft, fused = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("peft", "fused"))
    assert peft.keys() == fused.keys()
    assert all(torch.equal(peft[name], fused[name]) for name in peft)
    configs = [
        json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("peft", "fused")
    ]
    assert configs[0] == configs[1]
    reloaded = PeftModel.from_pretrained(build_tiny_model(), tmp_path / "fused")
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(
        reloaded(ids).logits, models[1].eval()(ids).logits, rtol=1e-4, atol=1e-5
    )
