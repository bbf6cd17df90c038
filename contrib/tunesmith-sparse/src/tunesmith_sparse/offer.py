"""The offer of ``sparse``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.contracts import Finding, ReviewResult, Technique
from tunesmith.errors import UsageError
from tunesmith.estimates import MemorySaving
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import ModelReview, Plan
from tunesmith.records import Chat, Completion, Text
from tunesmith_sparse.options import SparseOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks
from tunesmith_torch.runtime.environment import prepare_environment

__all__ = ["SPARSE", "review_model", "review_plan"]


def build(options: SparseOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_sparse.technique import Sparse

    return Sparse(options)


def memory_savings(options: SparseOptions) -> Sequence[MemorySaving[SparseOptions]]:
    """Return option changes that save memory, except those of LoRA's own table."""
    savings = techniques.memory_savings(options)
    return [each for each in savings if not any("adapter." in line for line in each.changes)]


SPARSE = TechniqueOffer(
    name="sparse",
    summary="a few weights of each linear layer; the artifact is a small file of changes",
    config=SparseOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Text}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=("torch>=2.11", "transformers>=5.17", "numpy>=1.26"),
    promises=Promises(base_weights_unchanged=True),
    accepts_additions=True,
    estimate=techniques.estimate_supervised,
    memory_savings=memory_savings,
    sample={
        "density": 0.1,
        "mask": "gradient",
        "learning_rate": 0.01,
        "epochs": 8.0,
        "batch_size": 4,
        "precision": "fp32",
    },
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the optimizer and, if the config is available before download, the layer names."""
    options = plan.technique.config
    if not isinstance(options, SparseOptions):
        return []
    found = checks.check_optimizer(options, plan.run.device)
    return [*found, *_check_modules(options, plan.found_model.config)]


def review_model(review: ModelReview) -> ReviewResult:
    """Check the names of layers against a config that was not known before."""
    options, known = review.plan.technique.config, review.plan.found_model.config
    if known or not isinstance(options, SparseOptions):
        return ReviewResult()
    return ReviewResult(findings=[*_check_modules(options, review.config)])


def _check_modules(options: SparseOptions, config: Mapping[str, Any]) -> Iterator[Finding]:
    if not options.modules or not config:
        return
    prepare_environment()
    from tunesmith_sparse.layers import find_error

    error: UsageError | None = find_error(config, options.modules)
    if error is not None:
        where, _, message = error.message.partition(": ")
        yield Finding(level="error", where=where, message=message, hint=error.hint or "")
