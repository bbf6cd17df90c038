"""Test a method of PEFT on the loaded model before it trains, because nobody has classified it.

The test asks what training relies on:

- Effect: changed parameters change the logits of the base model's own forward pass.
- Causal: the logits do not depend on later tokens.
- Forward: PEFT's forward computes the same logits, and adds nothing to the loss.
- Gradient: each parameter gets a gradient.
- Saving and loading: the saved tensors bring the changed logits back.
- Off: without the adapter, the logits are those of the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.errors import UsageError
from tunesmith_peft.adapter import add_adapter
from tunesmith_peft.options import PeftOptions
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.runtime.eval_mode import eval_mode

# isort: split
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

__all__ = ["add_tested", "find_failures"]

TOKENS = 12
TOLERANCE = 1e-4
"""Largest difference of equal logits, as a share of the largest logit."""
CHANGE = 0.05
"""Standard deviation of the change of parameters."""


def add_tested(
    base: LoadedBase, precision: Precision, options: PeftOptions, seed: int
) -> AdaptedModel:
    """Add an adapter and test it; its parameters then have their initial values again.

    Raises:
        UsageError: the test fails; the message has the reasons.
    """
    ids_1T = torch.arange(1, TOKENS + 1, device=base.model.device)[None]
    with torch.no_grad(), eval_mode(base.model):
        before_1TV = base.model(input_ids=ids_1T, use_cache=False).logits
    adapted = add_adapter(base, precision, options.method, options.options, seed)
    try:
        failures = list(find_failures(adapted, ids_1T, before_1TV))
    except Exception as error:  # whatever a new method raises
        failures = [f"{type(error).__name__}: {error!s:.200}"]
    if failures:
        raise UsageError(
            f"technique.method: {options.method} is not known here, and its test on this model "
            f"fails: {'; '.join(failures)}",
            hint="choose a known method: tunesmith peft methods",
        )
    return adapted


def find_failures(adapted: AdaptedModel, ids_1T: Tensor, before_1TV: Tensor) -> Iterator[str]:
    """Yield what fails; ``before_1TV`` are the base model's logits for the tokens."""
    model: Any = adapted.model
    trained = [parameter for _, parameter in adapted.named_trainable_parameters]
    initial = [parameter.detach().clone() for parameter in trained]

    def direct() -> Tensor:
        return adapted.base.model(input_ids=ids_1T, use_cache=False).logits  # type: ignore[no-any-return]

    with eval_mode(model), adapted.autocast():
        with torch.no_grad():
            _change(trained)
            changed_1TV = direct()
        if _is_close(changed_1TV, before_1TV):
            yield "it has no effect on the base model's own forward pass"
            return
        with torch.no_grad():
            half = TOKENS // 2
            start_1TV = adapted.base.model(input_ids=ids_1T[:, :half], use_cache=False).logits
        if not _is_close(start_1TV, changed_1TV[:, :half]):
            yield "its predictions depend on later tokens"
        yield from _check_forward(model, ids_1T, changed_1TV)
        output = direct()
        torch.autograd.backward(output.float().square().mean())
        missing = sum(parameter.grad is None for parameter in trained)
        if missing:
            yield f"{missing} of {len(trained)} parameters get no gradient"
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            yield from _check_saved(model, trained, direct, changed_1TV)
            yield from _check_off(model, ids_1T, before_1TV)
            for parameter, value in zip(trained, initial, strict=True):
                parameter.copy_(value)


def _check_forward(model: Any, ids_1T: Tensor, expected_1TV: Tensor) -> Iterator[str]:
    with torch.no_grad():
        logits_1TV = model(input_ids=ids_1T, use_cache=False).logits
        if logits_1TV.shape != expected_1TV.shape or not _is_close(logits_1TV, expected_1TV):
            yield "PEFT's forward pass computes other logits"
            return
        model.train()  # a term may exist in training only
        output = model(input_ids=ids_1T, labels=ids_1T, use_cache=False)
        model.eval()
    plain = functional.cross_entropy(output.logits[0, :-1].float(), ids_1T[0, 1:])
    if not torch.isclose(output.loss.float(), plain, atol=TOLERANCE):
        yield f"PEFT adds {float(output.loss - plain):.3g} to the loss"
    if hasattr(model.base_model, "update_and_allocate"):
        yield "PEFT must be called after each step"


def _check_saved(
    model: Any, trained: list[Any], direct: Callable[[], Tensor], expected_1TV: Tensor
) -> Iterator[str]:
    state = {
        name: tensor.detach().clone()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    _change(trained)
    set_peft_model_state_dict(model, state)
    if not _is_close(direct(), expected_1TV):
        yield "its saved tensors do not bring its effect back"


def _check_off(model: Any, ids_1T: Tensor, before_1TV: Tensor) -> Iterator[str]:
    with model.disable_adapter():
        off_1TV = model(input_ids=ids_1T, use_cache=False).logits
    if not _is_close(off_1TV, before_1TV):
        yield "switched off, it still changes the logits"


def _change(parameters: list[Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator) * CHANGE
        parameter.add_(noise.to(parameter))


def _is_close(first: Tensor, second: Tensor) -> bool:
    scale = float(second.float().abs().max())
    return float((first.float() - second.float()).abs().max()) <= TOLERANCE * scale
