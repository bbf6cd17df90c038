"""Packed linear layers: the products of plain layers, the same parameters, and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tunesmith_torch.kernels import fused_lora, packed_linear
from tunesmith_torch.kernels.packed_linear import PackedLinear, PackedMLP, can_pack, pack_linears
from tunesmith_torch.losses.selected_positions import max_logprob_difference
from tunesmith_torch.testing.tiny_model import build_tiny_model

IDS_1T = torch.arange(5, 35)[None]


@pytest.fixture(autouse=True)
def needs_onednn() -> None:
    if not can_pack(torch.float32):
        pytest.skip("torch has no oneDNN here")


@pytest.fixture
def unknown_support() -> Iterator[None]:
    """Forget what the processor supports, before and after the test."""
    can_pack.cache_clear()
    yield
    can_pack.cache_clear()


def layers(model: nn.Module) -> list[PackedLinear]:
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(input_ids=IDS_1T, use_cache=False).logits
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_plain_layer(dtype: torch.dtype, bias: bool) -> None:
    if not can_pack(dtype):
        pytest.skip(f"oneDNN does not pack {dtype} here")
    numbers = torch.Generator().manual_seed(0)
    for inputs, outputs in ((1, 1), (17, 33), (64, 48), (130, 257)):
        layer = nn.Linear(inputs, outputs, bias=bias).to(dtype)
        packed = PackedLinear(layer)
        for shape in ((inputs,), (1, inputs), (3, 5, inputs), (97, inputs)):
            x = torch.randn(shape, generator=numbers).to(dtype)
            with torch.no_grad():
                found, expected = packed(x), layer(x)
                wide = torch.nn.functional.linear(
                    x.double(), layer.weight.double(), layer.bias.double() if bias else None
                )
            assert found.shape == expected.shape and found.dtype == dtype
            # As close to the exact product as the plain one, up to a factor for another order.
            error, usual = (float((y.double() - wide).abs().max()) for y in (found, expected))
            size = max(1.0, float(wide.abs().max()))
            assert error <= 4 * usual + 4 * torch.finfo(dtype).eps * size


def test_rows_of_a_product_do_not_depend_on_other_rows() -> None:
    packed = PackedLinear(nn.Linear(130, 257))
    x_TI = torch.randn(70, 130, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = packed(x_TI)
        for rows in (slice(0, 1), slice(3, 8), slice(20, 70)):
            assert torch.allclose(packed(x_TI[rows]), together[rows], atol=1e-6)


def test_a_packed_model_keeps_its_parameters_and_logits() -> None:
    model = build_tiny_model().eval()
    names, plain = [name for name, _ in model.named_parameters()], logits(model)
    weights = list(model.parameters())
    assert pack_linears(model) == 7 * model.config.num_hidden_layers + 1
    assert [name for name, _ in model.named_parameters()] == names
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    assert [*model.state_dict()] == [*build_tiny_model().state_dict()]
    assert isinstance(model.get_output_embeddings(), PackedLinear)
    assert torch.allclose(logits(model), plain, atol=1e-5)
    assert pack_linears(model) == 0, "packed layers are left alone"
    assert max_logprob_difference(model) < 1e-4, "the head is still found"


def test_query_key_and_value_are_one_product_if_they_read_the_same_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attention, plain = (build_tiny_model().model.layers[0].self_attn for _ in range(2))
    plain.load_state_dict(attention.state_dict())
    pack_linears(attention)
    widths: list[int] = []
    original = packed_linear.multiply

    def multiply(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        widths.append(len(weight_OI))
        return original(x, weight_OI, bias_O)

    monkeypatch.setattr(packed_linear, "multiply", multiply)
    numbers = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 5, attention.q_proj.in_features, generator=numbers)
    names = "q_proj", "k_proj", "v_proj"

    def check(*inputs: tuple[str, Tensor]) -> list[int]:
        widths.clear()
        with torch.no_grad():
            for name, each in inputs:
                found, expected = getattr(attention, name)(each), getattr(plain, name)(each)
                assert torch.allclose(found, expected, atol=1e-6), name
        return list(widths)

    sizes = [getattr(plain, name).out_features for name in names]
    assert check(*((name, x) for name in names)) == [sum(sizes)]
    assert check(*((name, x) for name in names)) == [sum(sizes)]
    assert check(("q_proj", x), ("k_proj", z), ("v_proj", x)) == [sum(sizes), *sizes[1:]]
    assert check(("k_proj", x), ("k_proj", x), ("v_proj", z)) == [sizes[1], sizes[1], sizes[2]]
    hook = attention.q_proj.register_forward_pre_hook(lambda _, args: (args[0][:2],))
    assert check(("k_proj", x), ("v_proj", x)) == sizes[1:]
    with torch.no_grad():
        assert len(attention.q_proj(x)) == 2
        assert torch.allclose(attention.k_proj(x), plain.k_proj(x), atol=1e-6)
    hook.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_mlp_with_silu_is_three_products(dtype: torch.dtype) -> None:
    if not can_pack(dtype):
        pytest.skip(f"oneDNN does not pack {dtype} here")
    model = build_tiny_model().to(dtype)
    plain = model.model.layers[0].mlp
    x_TI = torch.randn(7, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    x_TI = x_TI.to(dtype)
    expected = plain(x_TI)
    pack_linears(model)
    mlp = model.model.layers[0].mlp
    assert type(mlp) is PackedMLP and mlp is not plain
    with torch.no_grad():
        assert torch.allclose(mlp(x_TI), expected, rtol=0.02, atol=2 * torch.finfo(dtype).eps)
    assert torch.equal(mlp(x_TI), expected), "with gradients, the plain operations"


def test_another_mlp_keeps_its_operations() -> None:
    gelu = build_tiny_model("gemma")
    scaled = build_tiny_model()
    for layer in scaled.model.layers:
        layer.mlp.act_fn = nn.Tanh()
    biased = build_tiny_model(changes={"mlp_bias": True})
    for model in (gelu, scaled, biased):
        before = logits(model.eval())
        pack_linears(model)
        assert not any(isinstance(module, PackedMLP) for module in model.modules())
        assert torch.allclose(logits(model), before, atol=1e-5)


def test_the_packed_copy_computes_and_gradients_use_the_plain_weights() -> None:
    model, same = build_tiny_model(), build_tiny_model()
    same.load_state_dict(model.state_dict())
    pack_linears(model)
    for each in (model, same):
        each(input_ids=IDS_1T, use_cache=False).logits.square().mean().backward()
    for found, expected in zip(model.parameters(), same.parameters(), strict=True):
        assert found.grad is not None and expected.grad is not None
        assert torch.equal(found.grad, expected.grad)
    layer = layers(model)[0]
    layer.weight.data.zero_()
    x = torch.ones(2, layer.in_features)
    assert float(layer(x).abs().max()) == 0, "with gradients, the plain weights"
    with torch.no_grad():
        assert float(layer(x).abs().max()) > 0, "without, the packed ones"


def test_other_dtypes_and_autocast_use_the_plain_weights() -> None:
    layer = nn.Linear(8, 8)
    packed = PackedLinear(layer)
    x = torch.ones(2, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert packed(x).dtype == torch.bfloat16 and torch.equal(packed(x), layer(x))
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        packed(x.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_under_an_adapter_are_packed_only_if_they_are_not_merged(dtype: torch.dtype) -> None:
    if not can_pack(dtype):
        pytest.skip(f"oneDNN does not pack {dtype} here")
    base = build_tiny_model().to(dtype)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    fused_lora.register_fused_lora(config, base)
    model = get_peft_model(base, config).eval()
    fused_lora.group_by_input(model)
    plain = logits(model)
    adapted = 7 * base.config.num_hidden_layers
    assert pack_linears(model) == (1 if dtype == torch.float32 else adapted + 1)
    found = logits(model)
    assert torch.allclose(found, plain, atol=1e-5 if dtype == torch.float32 else 0.05)
    changed = [layer for layer in layers(model) if layer is not base.lm_head]
    for layer in changed or layers(model):
        layer.packed_OI = packed_linear.pack_weight(torch.zeros_like(layer.weight))
    assert not torch.allclose(logits(model), found, atol=0.05), "the packed weights are used"


def test_a_model_that_is_too_large_or_elsewhere_stays_plain() -> None:
    model = build_tiny_model()
    size = sum(m.weight.nbytes for m in model.modules() if isinstance(m, nn.Linear))
    assert pack_linears(model, max_bytes=size - 1) == 0
    assert pack_linears(build_tiny_model().to("meta")) == 0
    assert pack_linears(build_tiny_model().double()) == 0
    assert pack_linears(model, max_bytes=size) > 0


@pytest.mark.parametrize("fault", ["wrong", "missing"])
def test_without_a_working_operator_layers_stay_plain(
    fault: str, monkeypatch: pytest.MonkeyPatch, unknown_support: None
) -> None:
    def multiply(x: Tensor, *weights: Tensor | None) -> Tensor:
        if fault == "missing":
            raise NotImplementedError
        return torch.zeros(len(x), 64)

    monkeypatch.setattr(packed_linear, "multiply", multiply)
    model, weight = build_tiny_model(), torch.ones(4, 4)
    assert pack_linears(model) == 0
    assert packed_linear.pack_weight(weight) is weight
