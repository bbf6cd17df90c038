"""The offers of ``peft`` and of the exporter ``lora``, and the review of a run's adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.contracts import Finding, ReviewResult, Technique
from tunesmith.errors import UsageError
from tunesmith.estimates import MemorySaving
from tunesmith.offers import ExporterOffer, Promises, TechniqueOffer
from tunesmith.plan import ModelReview, Plan
from tunesmith.plugins import missing_requirements
from tunesmith.records import Chat, Completion, Text
from tunesmith_peft.export_options import LoraExportOptions
from tunesmith_peft.methods import find_method
from tunesmith_peft.options import PeftOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks
from tunesmith_torch.runtime.environment import prepare_environment

__all__ = ["LORA", "PEFT", "review_model", "review_plan"]

NEEDS = ("torch>=2.11", "transformers>=5.17", "peft>=0.19")


def build(options: PeftOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_peft.technique import Peft

    return Peft(options)


def memory_savings(options: PeftOptions) -> Sequence[MemorySaving[PeftOptions]]:
    """Return option changes that save memory, except those of LoRA's own table."""
    savings = techniques.memory_savings(options)
    return [each for each in savings if not any("adapter." in line for line in each.changes)]


PEFT = TechniqueOffer(
    name="peft",
    summary="any adapter method of the installed PEFT by name; the artifact is a PEFT adapter",
    config=PeftOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Text}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=NEEDS,
    promises=Promises(base_weights_unchanged=True),
    accepts_additions=True,
    estimate=techniques.estimate_supervised,
    memory_savings=memory_savings,
    sample={
        "method": "lora",
        "options": {"r": 16},
        "learning_rate": 0.02,
        "epochs": 8.0,
        "batch_size": 4,
        "precision": "fp32",
    },
)

LORA = ExporterOffer(
    name="lora",
    summary="a LoRA adapter for vLLM, llama.cpp and others, converted from another method of PEFT",
    config=LoraExportOptions,
    build="tunesmith_peft.lora_export:LoraExporter",
    needs=NEEDS,
    tolerance=lambda options: None,
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the adapter against the model's config, if it can be read already."""
    return [*_review(plan, plan.found_model.config)]


def review_model(review: ModelReview) -> ReviewResult:
    """Check the adapter against a config that was not known before."""
    known = review.plan.found_model.config
    return ReviewResult(findings=() if known else [*_review(review.plan, review.config)])


def _review(plan: Plan, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Add the adapter to a base model without weights, and yield PEFT's objections."""
    options = plan.technique.config
    if not isinstance(options, PeftOptions) or not config:
        return
    yield from checks.check_optimizer(options, plan.run.device)
    method = find_method(options.method)
    for text in missing_requirements(method.needs) if method else ():
        message = f"method {options.method} needs {text}"
        yield Finding(level="error", where="technique.method", message=message)
        return
    prepare_environment()
    from tunesmith_peft.plan_check import find_error

    error: UsageError | None = find_error(options, config)
    if error is not None:
        where, _, message = error.message.partition(": ")
        yield Finding(level="error", where=where, message=message, hint=error.hint or "")
