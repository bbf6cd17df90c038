"""Evaluators of answers that are right only if each of several parts is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Self, TypeVar

from tunesmith.contracts import Measurement, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record, last_exchange, prompt_text
from tunesmith_evidence.answers.generate import AnswerOptions, generate_answers, read_references
from tunesmith_evidence.answers.normalize import strip_reasoning

__all__ = ["offer_parts_evaluator"]

O = TypeVar("O", bound=AnswerOptions)  # noqa: E741 - O as in options
Judge = Callable[[O, str, str, str], Sequence[bool]]


@dataclass(frozen=True)
class PartsEvaluator(Generic[O]):
    """Measures which parts of answers agree with their references."""

    name: str
    metrics: Sequence[str]
    """The metric of whole answers, then the metric of each part."""
    judge: Judge[O]
    """Returns whether each part is right, for options, a prompt, an answer and a reference."""
    options: O
    limit: int | None = None
    """Maximum tokens per answer, or None to derive it from the measured rows."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, limit=self.options.answer_limit(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record, and compare its parts with the reference's."""
        references = read_references(records, self.name)
        answers = generate_answers(model, records, self.limit or self.options.answer_limit(records))
        prompts = [prompt_text(last_exchange(record)[0]) for record in records]
        triples = zip(prompts, map(strip_reasoning, answers), references, strict=True)
        rows = [self.judge(self.options, *triple) for triple in triples]
        whole, *parts = self.metrics
        return [
            Measurement(metric=whole, values=tuple(float(all(r)) for r in rows), outputs=answers),
            *(
                Measurement(metric=part, values=tuple(float(row[n]) for row in rows))
                for n, part in enumerate(parts)
            ),
        ]


def offer_parts_evaluator(
    *, name: str, summary: str, config: type[O], metrics: Sequence[str], judge: Judge[O]
) -> EvaluatorOffer[O]:
    """Offer an evaluator of answers that are right only if each of their parts is right.

    Args:
        name: name of the evaluator.
        summary: one line about it.
        config: its options.
        metrics: the metric of whole answers, then the metric of each part, from 0 to 1.
        judge: a function that returns whether each part is right, for the options, a prompt, an
            answer without its reasoning, and the reference.
    """
    return EvaluatorOffer(
        name=name,
        summary=summary,
        config=config,
        build=partial(PartsEvaluator, name, metrics, judge),
        metrics=tuple(Metric(name=m, higher_is_better=True, bounds=(0, 1)) for m in metrics),
        accepts=frozenset({Completion, Chat}),
        generates=True,
        answer_limit=config.answer_limit,
    )
