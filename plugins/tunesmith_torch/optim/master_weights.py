"""Run AdamW on fp32 master weights, even if the model computes in bf16.

A bf16 number has eight significant bits, so neighboring numbers differ by at least 0.4 %. Changing
a weight of 0.01 by 1e-5 is a change of 0.1 %, which rounding to bf16 would undo. The same holds for
nearly every update. The optimizer therefore keeps fp32 *master weights* of bf16 parameters::

    bf16 parameter -- forward, backward --> bf16 gradient of one micro-batch
          ^                                       | added up in fp32 as soon as autograd has it
          | rounded after the step                v
    fp32 master weight <---- AdamW step ---- fp32 gradient of the batch

fp32 parameters (adapters, or a model trained in fp32) are their own master weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import TrainingError
from tunesmith_torch.optim import adamw
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime import sharding

__all__ = ["MasterWeights"]

UpdateTransform = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None]
"""A function that gets copies of the master weights before a step, and the weights after it, which
it may change in place."""


class MasterWeights:
    """The trained parameters with their fp32 master weights and optimizer."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], options: TrainingOptions) -> None:
        """Build the optimizer for these parameters.

        Raises:
            TrainingError: ``named`` is empty.
        """
        self.names: list[str] = []
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._hooks: list[Any] = []
        for name, parameter in named:
            master = parameter
            if parameter.dtype != torch.float32:
                # The hook runs in each backward pass, so the loop never sees bf16 gradients.
                master = nn.Parameter(parameter.detach().float())
                add: Any = parameter.register_post_accumulate_grad_hook
                self._hooks.append(add(_accumulate_into(master)))
            self.names.append(name)
            self._pairs.append((parameter, master))
        if not self._pairs:
            raise TrainingError(
                "the model has no trainable parameters: all are frozen",
                hint="choose other modules in technique.adapter.target_modules, or another "
                "technique",
            )
        adapter = options.adaptation.adapter
        ratio = adapter.b_rate_ratio if adapter is not None else 1.0
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
        for name, master in self._by_name():
            faster = ".lora_B." in name or ".lora_embedding_B." in name
            groups.setdefault((master.ndim >= 2, ratio if faster else 1.0), []).append(master)
        self._optimizer_name: adamw.OptimizerName = options.optimizer.name
        # No decay for norm weights and biases, as is common: they scale and shift activations, and
        # pulling them to zero regularizes nothing.
        decay = options.optimizer.weight_decay
        self.optimizer = adamw.build_optimizer(
            [
                {
                    "params": masters,
                    "weight_decay": decay if is_matrix else 0.0,
                    "rate_ratio": ratio,
                }
                for (is_matrix, ratio), masters in groups.items()
            ],
            options,
        )

    def close(self) -> None:
        """Detach from the parameters, so that another object can train them."""
        for hook in self._hooks:
            hook.remove()

    @property
    def masters(self) -> list[nn.Parameter]:
        """The fp32 master weights, in the order of ``names``."""
        return [master for _, master in self._pairs]

    @property
    def is_sharded(self) -> bool:
        """True if this rank holds only a part of each weight."""
        return any(sharding.get_local_part(master) is not master for master in self.masters)

    def _by_name(self) -> Iterable[tuple[str, nn.Parameter]]:
        return zip(self.names, self.masters, strict=True)

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale all gradients to a joint norm of at most ``max_norm``; return the norm before."""
        gradients = [master.grad for master in self.masters if master.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        # A factor of 1 would change nothing, in a pass over all gradients. On a GPU, the comparison
        # would wait for the norm.
        if not (type(norm) is Tensor and norm.is_cpu and norm + 1e-6 <= max_norm):
            nn.utils.clip_grads_with_norm_(self.masters, max_norm, norm, foreach=True)
        return sharding.get_full_tensor(norm)

    def step(self, learning_rate: float, transform: UpdateTransform | None = None) -> None:
        """Update the master weights, copy them to the parameters, and free the gradients.

        ``transform`` may change the update. All master weights are copied only if it is given.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate_ratio"]
        before = {name: x.detach().clone() for name, x in self._by_name()} if transform else {}
        self.optimizer.step()
        with torch.no_grad():
            if transform is not None:
                transform(before, {name: master.detach() for name, master in self._by_name()})
            for parameter, master in self._pairs:
                master.grad = None
                if parameter is not master:
                    parameter.copy_(master)  # rounds to bf16

    def zero_grad(self) -> None:
        """Free the gradients of the parameters and of the master weights."""
        for parameter, master in self._pairs:
            parameter.grad = master.grad = None

    def largest_gradients(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the names and norms of the largest gradients, non-finite norms first."""
        norms = [
            (name, float(sharding.get_full_tensor(master.grad.norm())))
            for name, (_, master) in zip(self.names, self._pairs, strict=True)
            if master.grad is not None
        ]
        return sorted(norms, key=lambda item: -item[1] if item[1] == item[1] else -float("inf"))[
            :count
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """Return master weights and optimizer state as flat named tensors, for safetensors.

        Before the first step AdamW has no moments yet, so zeros are returned for them.
        """
        flat: dict[str, Tensor] = {}
        for name, (_, master) in zip(self.names, self._pairs, strict=True):
            flat[f"master.{name}"] = master.detach()
            for key, value in adamw.optimizer_state(
                self.optimizer, master, self._optimizer_name
            ).items():
                flat[f"{key}.{name}"] = value
        return flat

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """Load the state that :meth:`state_dict` returned.

        Raises:
            KeyError: a tensor is missing.
            ValueError: a tensor does not have the same shape as in the model.
        """
        for name, master in zip(self.names, self.masters, strict=True):
            found = flat[f"master.{name}"].shape
            if found != master.shape:  # copy_ would broadcast a smaller tensor instead of failing
                expected = [*master.shape]
                raise ValueError(f"master.{name} has shape {[*found]}, not {expected}")
        with torch.no_grad():
            for name, (parameter, master) in zip(self.names, self._pairs, strict=True):
                master.copy_(flat[f"master.{name}"])
                if parameter is not master:
                    parameter.copy_(master)
                adamw.load_optimizer_state(self.optimizer, master, self._optimizer_name, name, flat)


def _accumulate_into(master: nn.Parameter) -> Any:
    """Return a hook that moves a parameter's bf16 gradient into the master's fp32 gradient.

    Autograd calls it during backward, as soon as the gradient of the parameter is complete. So at
    most a few bf16 gradients exist at a time, and micro-batches are added up in fp32.
    """

    def add(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return add
