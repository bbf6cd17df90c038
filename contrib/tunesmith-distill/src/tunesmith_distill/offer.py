"""The offer of ``distill``, and the review of its teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import Finding, Technique
from tunesmith.errors import UsageError
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, Text
from tunesmith_distill.options import DistillOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks
from tunesmith_torch.runtime.environment import prepare_environment

__all__ = ["DISTILL", "review_plan"]


def build(options: DistillOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_distill.technique import Distill

    return Distill(options)


DISTILL = TechniqueOffer(
    name="distill",
    summary="a student that learns the data and a teacher's predictions, with all weights or LoRA",
    config=DistillOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Text}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(),
    accepts_additions=True,
    estimate=techniques.estimate_supervised,
    memory_savings=techniques.memory_savings,
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Check the optimizer, and the teacher's tokenizer if both tokenizers are on this machine."""
    options = plan.technique.config
    if not isinstance(options, DistillOptions):
        return []
    found = checks.check_optimizer(options, plan.run.device)
    return [*found, *_review_teacher(plan, options)]


def _review_teacher(plan: Plan, options: DistillOptions) -> Iterator[Finding]:
    prepare_environment()
    from tunesmith_distill.teacher import check_tokenizers
    from tunesmith_torch.compare.open_by_name import find_tokenizer
    from tunesmith_torch.models.loading import load_tokenizer

    try:
        folders = plan.found_model.tokenizer(), find_tokenizer(options.teacher, "technique.teacher")
        if folders[0] is not None and folders[1] is not None:
            check_tokenizers(load_tokenizer(folders[0]), load_tokenizer(folders[1]))
    except UsageError as error:
        where, _, message = error.message.partition(": ")
        yield Finding(level="error", where=where, message=message, hint=error.hint or "")
