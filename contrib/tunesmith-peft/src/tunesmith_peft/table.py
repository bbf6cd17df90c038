"""The table ``[peft-adapter]``: an adapter of any method for ``preference`` and ``rlhf``.

These techniques compare the policy with a reference. The reference is the model with the adapter
switched off, so only methods are accepted whose adapter can be switched off, and starts as no
change.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field, model_validator

from tunesmith.additions import Addition
from tunesmith.errors import UsageError
from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith_peft.methods import Method, find_method
from tunesmith_peft.options import find_name_problem, find_problems

__all__ = ["TABLE", "AdapterTable"]

_PLAIN_STARTS = (True, "gaussian")


class AdapterTable(Options):
    """Options of ``[peft-adapter]``: the adapter that a technique trains in place of LoRA."""

    method: str | None = Field(
        None, description="Method of the installed PEFT. Unset: the technique's own adapter."
    )
    options: dict[str, Any] = Field({}, description="Options of the method, as in PEFT.")

    @model_validator(mode="after")
    def _check(self) -> AdapterTable:
        if self.method is None:
            problem = "`options` needs `method`" if self.options else ""
        else:
            problem = find_name_problem(self.method)
            problem = problem or next(find_problems(self.method, self.options), "")
            problem = problem or _find_obstacle(self.method, self.options)
        if problem:
            raise ValueError(problem)
        return self


def _find_obstacle(method: str, given: dict[str, Any]) -> str:
    """Return why the adapter cannot be compared with the model without it; empty if it can."""
    found = find_method(method)
    if found is None:
        return f"method {method} is not known here; train it with technique peft"
    if found.uses_forward:
        return f"method {method} only takes effect in PEFT's own forward pass"
    if found.starts_elsewhere or given.get("init_lora_weights", True) not in _PLAIN_STARTS:
        return f"the initial values of this {method} adapter change the model"
    if method == "adalora" and "total_step" not in given:
        return "method adalora needs the option total_step, the number of training steps"
    if found.is_random or "monteclora_config" in given:
        return f"method {method} adds noise to the policy"
    return "kasa_config changes the base model" if "kasa_config" in given else ""


def addition(options: AdapterTable) -> Addition | None:
    """Return the addition that adds the adapter, or None if no method is chosen."""
    if options.method is None:
        return None
    return Addition(build=partial(_build, options), adapt=partial(_adapt, options))


def _build(options: AdapterTable, context: Any) -> Any:
    """Return the loss term and the hook of the method; torch is imported here."""
    from tunesmith_peft.hidden_terms import build_term_and_hook

    return build_term_and_hook(_method(options), options.options, context)


def _adapt(options: AdapterTable, base: Any, precision: Any, job: Any, initial: Any) -> Any:
    """Add the adapter to a loaded base model.

    Raises:
        UsageError: the technique trains no adapter on this model, or PEFT rejects the options.
    """
    from tunesmith_peft.adapter import add_adapter

    adaptation = job.config.adaptation
    if initial is not None and initial.format == "adapter":
        raise UsageError(
            "peft-adapter: this adapter cannot be added to that of an earlier run or stage",
            hint="merge the earlier adapter into its base model, and set model.base",
        )
    if adaptation.adapter is None:
        raise UsageError(
            "peft-adapter: all weights are trained", hint='set technique.adapt = "lora"'
        )
    if adaptation.quantization is not None and not _method(options).is_quantizable:
        raise UsageError(
            f"peft-adapter: method {options.method} does not work on a quantized base model",
            hint='set technique.adapt = "lora"',
        )
    return add_adapter(base, precision, str(options.method), options.options, job.seed)


def _method(options: AdapterTable) -> Method:
    return find_method(str(options.method)) or Method()


TABLE: TableOffer[Any] = TableOffer(
    name="peft-adapter",
    summary="the adapter of preference, rlhf and other techniques, by any method of PEFT",
    config=AdapterTable,
    addition=addition,
)
