"""AdamW over fp32 weights, also where the model itself computes in bf16.

A bf16 number has eight bits of mantissa: at a learning rate of 1e-5 nearly every update would be
rounded away. So the optimizer keeps fp32 *masters* of bf16 parameters, adds each micro-batch's
gradient up in fp32 as soon as autograd has it, and writes the rounded masters back after a step.
fp32 parameters (adapters, or a model trained in fp32) are their own masters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith_torch.optim import adamw
from tunesmith_torch.options.training import FitOptions


class Masters:
    """The trained parameters, their fp32 masters, and AdamW over them (Loshchilov, Hutter 2019)."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], options: FitOptions) -> None:
        self.names: list[str] = []
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, parameter in named:
            master = parameter
            if parameter.dtype != torch.float32:
                master = nn.Parameter(parameter.detach().float())
                parameter.register_post_accumulate_grad_hook(_adding_to(master))  # type: ignore[no-untyped-call]
            self.names.append(name)
            self._pairs.append((parameter, master))
        # Norms and biases are scales, not maps: decaying them pulls the model to nothing useful.
        decayed = [master for _, master in self._pairs if master.ndim >= 2]
        others = [master for _, master in self._pairs if master.ndim < 2]
        self._kind: adamw.Kind = options.optimizer
        self.adamw = adamw.build(
            [
                {"params": decayed, "weight_decay": options.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            options,
        )

    @property
    def masters(self) -> list[nn.Parameter]:
        return [master for _, master in self._pairs]

    def clip(self, largest: float) -> Tensor:
        """Scale the gradient down to a norm of at most ``largest``; its norm before, a scalar."""
        return nn.utils.clip_grad_norm_(self.masters, largest, foreach=True)

    def step(self, learning_rate: float) -> None:
        """Update the masters, write them back to the parameters, and drop the gradients."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, master in self._pairs:
                if parameter is not master:
                    parameter.copy_(master)

    def drop_gradients(self) -> None:
        """Forget what was accumulated: the micro-batches of this step will be computed again."""
        self.adamw.zero_grad(set_to_none=True)
        for parameter, _ in self._pairs:
            parameter.grad = None

    def largest_gradients(self, count: int = 5) -> list[tuple[str, float]]:
        """Names and norms of the largest gradients, not-finite ones first."""
        norms = [
            (name, float(master.grad.norm()))
            for name, (_, master) in zip(self.names, self._pairs, strict=True)
            if master.grad is not None
        ]
        return sorted(norms, key=lambda item: -item[1] if item[1] == item[1] else -float("inf"))[
            :count
        ]

    def tensors(self) -> dict[str, Tensor]:
        """The state as flat named tensors, for safetensors: masters and AdamW's moments.

        Before the first step AdamW has none yet, and begins with zeros.
        """
        flat: dict[str, Tensor] = {}
        for name, (_, master) in zip(self.names, self._pairs, strict=True):
            flat[f"master.{name}"] = master.detach()
            for key, value in adamw.remembered(self.adamw, master, self._kind).items():
                flat[f"{key}.{name}"] = value
        return flat

    def restore(self, flat: dict[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave.

        Raises:
            KeyError: a tensor is missing: a state that is not whole is no state.
            ValueError: one has another shape than the model's.
        """
        for name, master in zip(self.names, self.masters, strict=True):
            found = flat[f"master.{name}"].shape
            if found != master.shape:  # copying would repeat a row of it rather than fail
                raise ValueError(f"master.{name} is {[*found]}, the model's is {[*master.shape]}")
        with torch.no_grad():
            for name, (parameter, master) in zip(self.names, self._pairs, strict=True):
                master.copy_(flat[f"master.{name}"])
                if parameter is not master:
                    parameter.copy_(master)
                adamw.remember(self.adamw, master, self._kind, name, flat)


def _adding_to(master: nn.Parameter) -> Any:
    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return add
