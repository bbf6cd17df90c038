"""The lean LoRA layer: PEFT's values and gradients, PEFT's files, and PEFT's forward elsewhere."""

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
from tunesmith_torch.kernels.fused_lora import LeanLinear
from tunesmith_torch.testing.tiny_model import tiny_model


class Two(nn.Module):
    """Two linear layers, one with a bias; the second sees a gradient from above and below."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 40), nn.Linear(40, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.up(x)))
        return out


def adapted(model: nn.Module, leanly: bool, **changes: Any) -> PeftModel:
    targets = changes.pop("target_modules", ["up", "down"])
    config = LoraConfig(r=4, lora_alpha=7, target_modules=targets, **changes)
    if leanly:
        fused_lora.use(config, model)
    torch.manual_seed(5)
    made = get_peft_model(copy.deepcopy(model), config).train()
    for name, parameter in made.named_parameters():
        if "lora_B" in name:  # zero at first, and then half of the gradients would be too
            nn.init.normal_(parameter, std=0.3)
    return made


def result(model: nn.Module, x: Tensor, **context: Any) -> dict[str, Tensor]:
    """The output, and the gradients of its sine's sum by the input and all that is trained."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, **{"enabled": False, **context}):
        y = model(x)
    y.float().sin().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"y": y, "x": x.grad, **grads}


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("shape", [(6, 24), (2, 5, 24)])
def test_values_and_gradients_are_pefts(shape: tuple[int, ...], use_rslora: bool) -> None:
    torch.manual_seed(0)
    base, x = Two().double(), torch.randn(*shape, dtype=torch.float64)
    wanted = result(adapted(base, False, use_rslora=use_rslora), x)
    got = result(adapted(base, True, use_rslora=use_rslora), x)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-6, atol=1e-6, msg=name)


def test_in_bf16_it_is_as_near_to_the_truth_as_peft() -> None:
    """Errors against fp64 are compared, because two roundings never agree with each other."""
    torch.manual_seed(0)
    base, x = Two(), torch.randn(64, 24)
    true = result(adapted(base.double(), True), x.double())
    base = base.to(torch.bfloat16)
    theirs = result(adapted(base, False), x.bfloat16(), enabled=True)
    ours = result(adapted(base, True), x.bfloat16())
    for name, tensor in true.items():
        far, near = ((t[name].double() - tensor).norm() / tensor.norm() for t in (theirs, ours))
        assert near < 1.3 * far + 1e-3, (name, float(near), float(far))
    assert ours["y"].dtype == torch.bfloat16
    assert all(ours[name].dtype == torch.float32 for name in ours if "lora" in name)


def test_a_frozen_input_gets_no_gradient_and_autocast_changes_nothing() -> None:
    model = adapted(Two(), True)
    x = torch.randn(6, 24)
    plain = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.base_model.model.up(x), model.base_model.model.up(x))
    plain.sum().backward()
    assert x.grad is None


def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of the fused computation from here on."""
    calls: list[str] = []
    whole = lora_autograd.LowRank.apply

    def apply(*args: Any) -> Any:
        calls.append("lean")
        return whole(*args)

    monkeypatch.setattr(lora_autograd.LowRank, "apply", apply)
    return calls


@pytest.mark.parametrize(
    "changes", [{"lora_dropout": 0.2}, {"use_dora": True}, {"lora_bias": True}], ids=str
)
def test_what_it_does_not_know_is_left_to_peft(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    calls = count(monkeypatch)
    base, x = Two(), torch.randn(6, 24)
    if "lora_bias" in changes:
        base.down = nn.Linear(40, 24)
    models = [adapted(base, leanly, **changes) for leanly in (False, True)]
    for made in models:
        for name, parameter in made.named_parameters():
            if name.endswith("lora_B.default.bias"):
                nn.init.ones_(parameter)
    outputs = []
    for made in models:
        torch.manual_seed(9)
        outputs.append(made(x))
    torch.testing.assert_close(outputs[1], outputs[0])
    assert not calls


def test_dropout_is_none_of_its_business_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count(monkeypatch)
    base, x = Two(), torch.randn(6, 24)
    theirs, ours = (adapted(base, leanly, lora_dropout=0.5).eval() for leanly in (False, True))
    torch.testing.assert_close(ours(x), theirs(x))
    assert len(calls) == 2


def test_off_and_merged_are_left_to_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    base, x = Two(), torch.randn(6, 24)
    model = adapted(base, True)
    whole = model(x)
    calls = count(monkeypatch)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), base(x))
    model.merge_adapter()
    torch.testing.assert_close(model(x), whole, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    assert not calls
    torch.testing.assert_close(model(x), whole, rtol=1e-4, atol=1e-5)
    assert len(calls) == 2


def with_second(model: PeftModel, targets: list[str]) -> PeftModel:
    """A trained adapter of another rank and scale above the first, which is frozen."""
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
def test_several_adapters_are_one_of_the_sum_of_their_ranks(
    monkeypatch: pytest.MonkeyPatch, targets: list[str]
) -> None:
    base, x = Two().double(), torch.randn(6, 24, dtype=torch.float64)
    wanted = result(with_second(adapted(base, False), targets), x)
    model = with_second(adapted(base, True), targets)
    calls = count(monkeypatch)
    got = result(model, x)
    assert len(calls) == 2
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    model.base_model.set_adapter("default")
    torch.testing.assert_close(model(x), adapted(base, True)(x), rtol=1e-6, atol=1e-6)


class Attention(nn.Module):
    """Three layers of one input, of different widths, as in attention with shared keys."""

    def __init__(self, *, crossed: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(24, 16), nn.Linear(24, 8, bias=False)
        self.v_proj, self.o_proj = nn.Linear(24, 8), nn.Linear(16, 24)
        self.crossed = crossed
        self.breaks = False

    def forward(self, x: Tensor) -> Tensor:
        q = self.q_proj(x)
        if self.breaks:
            raise MemoryError
        other = x.tanh() if self.crossed else x
        k, v = self.k_proj(other), self.v_proj(x)
        out: Tensor = self.o_proj(q * torch.cat([k * v, k - v], -1))
        return out


QKV = ["q_proj", "k_proj", "v_proj"]


def both(base: nn.Module, targets: list[str]) -> tuple[PeftModel, PeftModel]:
    """PEFT's own, and the lean one whose layers know of each other."""
    theirs, ours = (adapted(base, leanly, target_modules=targets) for leanly in (False, True))
    fused_lora.introduce(ours)
    return theirs, ours


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    wanted, got = result(theirs, x), result(ours, x)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    for model in (ours, theirs):
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
    theirs, ours = both(base, targets)
    calls = count(monkeypatch)
    for number in (1, 2):
        assert_same(ours, theirs, x)
        assert len(calls) == number * products


def test_a_layer_that_a_hook_gives_another_input_is_computed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the last layer, whose queries are computed for some positions only."""
    base = Attention()
    x = input_of(base)
    theirs, ours = both(base, QKV)
    calls = count(monkeypatch)
    for model in (theirs, ours):
        queries = model.base_model.model.q_proj
        queries.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    assert_same(ours, theirs, x)
    assert len(calls) == 2


def test_a_wrong_guess_costs_a_product_and_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = Attention(crossed=True)
    x = input_of(base)
    theirs, ours = both(base, QKV)
    calls = count(monkeypatch)
    for _ in range(2):
        assert_same(ours, theirs, x)
    assert ours.base_model.model.k_proj.family is None
    assert len(calls) == 4


def test_a_pass_that_was_broken_off_leaves_nothing_behind() -> None:
    base = Attention()
    x = input_of(base)
    theirs, ours = both(base, QKV)
    ours.base_model.model.breaks = True
    with pytest.raises(MemoryError):
        ours(x)
    ours.base_model.model.breaks = False
    for _ in range(2):  # the same tensor once more, and after the weights have moved
        with torch.no_grad():
            for model in (theirs, ours):
                for parameter in model.parameters():
                    parameter.mul_(1.5)
        assert_same(ours, theirs, x)


def test_what_a_broken_pass_held_is_let_go() -> None:
    """A result that nobody asked for would keep the activations of all layers before it."""
    base = Attention()
    x = input_of(base).requires_grad_()
    ours = both(base, QKV)[1]
    ours.base_model.model.breaks = True
    before = x.exp()
    held = weakref.ref(before)
    with pytest.raises(MemoryError):
        ours(before)
    del before
    fused_lora.forget(ours)
    gc.collect()
    assert held() is None


def test_an_answer_that_is_not_used_earns_no_gradient() -> None:
    base = Attention()
    x = input_of(base)
    results = []
    for model in both(base, QKV):
        inner = model.base_model.model
        (inner.q_proj(x).sin().sum() + 0 * inner.v_proj(x).sum()).backward()
        inner.k_proj(x)
        results.append([p.grad for n, p in model.named_parameters() if "q_proj.lora" in n])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_whole_model_learns_what_it_learns_with_pefts_layers(
    gradient_checkpointing: bool,
) -> None:
    base, ids = tiny_model(), torch.arange(3, 40)[None]
    target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    grads = []
    for model in both(base, target_modules):
        if gradient_checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(ids, labels=ids).loss.backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert len(grads[0]) == len(grads[1]) > 0
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_model_with_other_linear_layers_keeps_pefts_own() -> None:
    """Quantised layers are subclasses of nn.Linear, and PEFT asks with isinstance."""

    class Quantised(nn.Linear):
        pass

    base = Two()
    base.up = Quantised(24, 40)
    kinds = {type(m) for m in adapted(base, True).modules() if isinstance(m, PeftLinear)}
    assert kinds == {PeftLinear}
    assert {type(m) for m in adapted(Two(), True).modules() if isinstance(m, PeftLinear)} == {
        LeanLinear
    }


def test_files_are_pefts(tmp_path: Path) -> None:
    """Same names, same values, same config; loaded by plain PEFT with the same result."""
    base = tiny_model()
    models = [
        adapted(base, leanly, target_modules=["q_proj", "down_proj"]) for leanly in (False, True)
    ]
    for model, name in zip(models, ("theirs", "ours"), strict=True):
        model.save_pretrained(tmp_path / name)
    theirs, ours = (
        load_file(tmp_path / n / "adapter_model.safetensors") for n in ("theirs", "ours")
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    configs = [
        json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("theirs", "ours")
    ]
    assert configs[0] == configs[1]
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "ours")
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(
        again(ids).logits, models[1].eval()(ids).logits, rtol=1e-4, atol=1e-5
    )
