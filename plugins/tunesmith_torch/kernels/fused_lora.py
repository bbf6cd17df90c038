"""LoRA's linear layers with the low-rank products done once, in the cheap order, in place.

PEFT runs an adapter as three layers, a scale and a sum: five results, two of which are tables as
large as the layer's output, read and written only to be added. Here all of it is one operation
(:mod:`tunesmith_torch.kernels.lora_autograd`), and layers that read the same input, queries, keys and values or
the two halves of a gated MLP, share theirs. The first of such siblings that is called answers for
the others, which are asked with the very same tensor right after it; one that is asked with another
computes alone, from then on.

:func:`use` has PEFT build its adapters from this class, through its own table of custom layers.
What this layer does not know (dropout, DoRA, an adapter that is switched off or merged) it leaves
to PEFT's own forward, which it inherits.

Shapes: I inputs, O outputs of a layer, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunesmith_torch.runtime import bitsandbytes  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from tunesmith_torch.kernels.lora_autograd import Layer, LowRank

FAMILIES = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read the same input. A wrong guess costs one product, not the result."""


def use(config: LoraConfig, model: nn.Module) -> None:
    """Build the adapters of ``config`` from :class:`LeanLinear`, if all of ``model`` allows it.

    PEFT picks custom layers by ``isinstance``, so a model with one quantised layer (those are
    subclasses of ``nn.Linear``) keeps PEFT's own everywhere.
    """
    if all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear)):
        config._register_custom_module({nn.Linear: LeanLinear})


def introduce(model: nn.Module) -> None:
    """Let lean layers that read the same input know of each other; others are left alone."""
    for module in model.modules():
        for names in FAMILIES:
            children = (getattr(module, name, None) for name in names)
            found = [child for child in children if isinstance(child, LeanLinear)]
            family = Family(found) if len(found) > 1 else None
            for layer in found:
                layer.family = family


def forget(model: nn.Module) -> None:
    """Let go of what a pass that was broken off has left: each result holds that pass's graph."""
    for module in model.modules():
        if isinstance(module, LeanLinear) and module.family is not None:
            module.family.forget()


class Family:
    """Lean layers that read the same input, and what was computed for those not asked yet."""

    def __init__(self, layers: Iterable[LeanLinear]) -> None:
        self._layers = list(layers)
        self._x: Tensor | None = None
        self._ready: dict[LeanLinear, Tensor] = {}

    def answer(self, layer: LeanLinear, names: list[str], x: Tensor) -> Tensor:
        """What ``layer`` makes of ``x``; where it is the first, what the others do, too.

        ``names`` are its adapters.
        """
        ready, same = self._ready.pop(layer, None), self._x is x
        if ready is not None and not same:  # it reads something else than its family does
            self._layers.remove(layer)
            layer.family = None
            return run({layer: names}, x)[0]
        if ready is None:
            asked = {layer: names} if layer.is_hooked() else {layer: names, **self._others(layer)}
            ready, *rest = run(asked, x)
            self._x, self._ready = x, dict(zip([*asked][1:], rest, strict=True))
        if not self._ready:
            self._x = None  # nobody else will ask with it
        return ready

    def _others(self, layer: LeanLinear) -> dict[LeanLinear, list[str]]:
        """Those that can be computed with it, and their adapters."""
        found = {
            each: each.plain_adapters()
            for each in self._layers
            if each is not layer and not each.is_hooked()
        }
        return {each: names for each, names in found.items() if names}

    def forget(self) -> None:
        """Nobody will ask for what is ready."""
        self._x, self._ready = None, {}


class LeanLinear(PeftLinear):  # type: ignore[misc]
    """PEFT's linear layer with an adapter, its parameters and names; another forward."""

    family: Family | None = None
    folded_OI: Tensor | None = None  # noqa: N815
    """Weights with the adapters in them, for a while (:mod:`tunesmith_torch.generation.merged_lora`)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute what PEFT's forward computes."""
        if self.folded_OI is not None:
            return nn.functional.linear(x, self.folded_OI, self.get_base_layer().bias)
        names = [] if args or kwargs else self.plain_adapters()
        if not names:
            other: Tensor = super().forward(x, *args, **kwargs)
            return other
        if self.family is None:
            return run({self: names}, x)[0]
        return self.family.answer(self, names, x)

    def plain_adapters(self) -> list[str]:
        """The adapters to compute; none where there is none, or one that is not plain."""
        if self.disable_adapters or self.merged or self.fan_in_fan_out:
            return []
        names = [name for name in self.active_adapters if name in self.lora_A]
        return names if all(map(self._is_plain, names)) else []

    def is_hooked(self) -> bool:
        """Whether a hook may change what it is given, so that it cannot be computed with others."""
        return bool(self._forward_pre_hooks)

    def _is_plain(self, name: str) -> bool:
        drops = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        biased = self.lora_B[name].bias is not None
        return not (drops or biased or name in self.lora_variant)


def run(layers: Mapping[LeanLinear, Sequence[str]], x: Tensor) -> tuple[Tensor, ...]:
    """What layers make of one input, each with its plain adapters of these names."""
    plan, frozen, low = [], [], []
    at = 0
    for layer, names in layers.items():
        base = layer.get_base_layer()
        columns, scales = [], []
        for name in names:
            a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
            columns.append(slice(at, at := at + len(a_RI)))
            scales.append(float(layer.scaling[name]))
            low += [a_RI, b_OR]
        frozen += [base.weight, base.bias]
        plan.append(Layer(tuple(columns), tuple(scales)))
    outs: tuple[Tensor, ...] = LowRank.apply(x, tuple(plan), *frozen, *low)  # type: ignore[no-untyped-call]
    return outs
