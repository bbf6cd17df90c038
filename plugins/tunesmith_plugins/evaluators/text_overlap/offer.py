"""Offer of ``text-overlap``: its options. It is used only where the run file names it."""

from __future__ import annotations

from tunesmith.contracts import Evaluator
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion
from tunesmith_evidence.answers.generate import AnswerOptions


class TextOverlapOptions(AnswerOptions):
    """Options: how long an answer may be."""


def build(options: TextOverlapOptions) -> Evaluator:
    """Build the evaluator."""
    from tunesmith_plugins.evaluators.text_overlap.evaluator import TextOverlap

    return TextOverlap(max_new_tokens=options.max_new_tokens)


TEXT_OVERLAP = EvaluatorOffer(
    name="text-overlap",
    summary="chrF, BLEU and ROUGE-L of answers against the references, from 0 to 1",
    config=TextOverlapOptions,
    build=build,
    metrics=(
        Metric(name="chrf", higher_is_better=True, bounds=(0, 1), is_row_mean=False),
        Metric(name="bleu", higher_is_better=True, bounds=(0, 1), is_row_mean=False),
        Metric(name="rouge-l", higher_is_better=True, bounds=(0, 1)),
    ),
    accepts=frozenset({Chat, Completion}),
    needs=("sacrebleu>=2.4",),
    generates=True,
    answer_limit=TextOverlapOptions.answer_limit,
)
