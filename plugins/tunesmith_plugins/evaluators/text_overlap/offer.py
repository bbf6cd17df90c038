"""Offer ``text-overlap``, which a run only uses if the run file lists it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.contracts import Evaluator
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion
from tunesmith_evidence.answers.generate import AnswerOptions

if TYPE_CHECKING:
    from tunesmith_evidence.statistics.contributions import Matrix


class TextOverlapOptions(AnswerOptions):
    """Options of ``text-overlap``: the maximum answer length."""


def build(options: TextOverlapOptions) -> Evaluator:
    """Create the evaluator from its options."""
    from tunesmith_plugins.evaluators.text_overlap.evaluator import TextOverlap

    return TextOverlap(max_new_tokens=options.max_new_tokens)


def compute_chrf(counts: Matrix) -> Matrix:
    """Compute chrF2 from counts summed over rows."""
    from tunesmith_plugins.evaluators.text_overlap import evaluator

    return evaluator.compute_chrf(counts)


def compute_bleu(counts: Matrix) -> Matrix:
    """Compute BLEU from counts summed over rows."""
    from tunesmith_plugins.evaluators.text_overlap import evaluator

    return evaluator.compute_bleu(counts)


TEXT_OVERLAP = EvaluatorOffer(
    name="text-overlap",
    summary="chrF, BLEU and ROUGE-L of answers against the references, from 0 to 1",
    config=TextOverlapOptions,
    build=build,
    metrics=(
        Metric(
            name="chrf",
            higher_is_better=True,
            bounds=(0, 1),
            is_row_mean=False,
            compute=compute_chrf,
        ),
        Metric(
            name="bleu",
            higher_is_better=True,
            bounds=(0, 1),
            is_row_mean=False,
            compute=compute_bleu,
        ),
        Metric(name="rouge-l", higher_is_better=True, bounds=(0, 1)),
    ),
    accepts=frozenset({Chat, Completion}),
    needs=("sacrebleu>=2.4", "numpy>=1.26"),
    generates=True,
    reads_media=True,
    answer_limit=TextOverlapOptions.answer_limit,
    # BLEU is 0 for answers with fewer than four words, such as those of the kit.
    sample_records=(
        Completion(source="sample:1", prompt="Where is it?", completion="It is in the hall."),
        Completion(source="sample:2", prompt="When is it?", completion="On the first day of May."),
    ),
)
