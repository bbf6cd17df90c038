"""The ``canaries`` evaluator: rank injected secrets among controls that were not injected."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from tunesmith.contracts import Finding, Measurement, RunContext, TextModel
from tunesmith.errors import DataError, UsageError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import DataPath
from tunesmith.plan import Plan
from tunesmith.records import Record, last_exchange, to_answer
from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_p_value
from tunesmith_evidence.side_effects.canaries import (
    ALPHA,
    CanaryResult,
    CanarySet,
    Secret,
    rank_canaries,
    read_canaries,
)
from tunesmith_torch.compare.other_model import (
    ComparingEvaluator,
    ComparisonOptions,
    open_tuned_comparison_model,
)

METRIC = Metric(
    name="memorized-canaries", higher_is_better=False, bounds=(0, 1), is_descriptive=True
)


class CanariesOptions(ComparisonOptions):
    """Options of ``canaries``: the file with the injected secrets."""

    file: DataPath = Field(
        description=(
            "File with the secrets and their controls. `tunesmith data canaries` writes it next to "
            "the rows with the secrets."
        ),
    )


class Canaries(ComparingEvaluator):
    """Scores 1 for a canary that ranks significantly high among the controls, otherwise 0.

    The rank is by the log-probability of the secret alone, tuned minus base.
    """

    def __init__(self, options: CanariesOptions) -> None:
        self.options = options

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext | None
    ) -> Sequence[Measurement]:
        """Return one value per canary in the training rows, or an empty list without a tuned model.

        Raises:
            DataError: the file with canaries cannot be read, or is invalid.
            UsageError: none of the canaries is in the training rows.
        """
        given = read_canaries(Path(self.options.file))
        other = open_tuned_comparison_model(self.options, run)
        if other is None:
            return []
        # Outside a run there are no training rows to search, so the repetitions come from the
        # file.
        counts = [*given.repetitions] if run is None else count_injected(given, run.train)
        injected = [pair for pair in zip(given.canaries, counts, strict=True) if pair[1]]
        if not injected:
            raise UsageError(
                "canaries: the training rows contain none of the canaries",
                hint="train on the rows that `tunesmith data canaries` wrote together with "
                f"{self.options.file}",
            )
        secrets = [*(secret for secret, _ in injected), *given.controls]
        ours, theirs = (score_secrets(opened, given, secrets) for opened in (model, other))
        scores = [after - before for after, before in zip(ours, theirs, strict=True)]
        found = rank_canaries(scores[: len(injected)], scores[len(injected) :])
        details = {
            "holds": not found.is_alarm,
            "controls": len(given.controls),
            "shift_p_value": found.shift_p_value,
            "canaries": [
                {"repetitions": count, "rank": ranked.rank, "exposure": ranked.exposure,
                 "p_value_holm": ranked.p_value_holm, "log_probability": score}
                for (_, count), ranked, score in zip(injected, found.ranked, ours, strict=False)
            ],
            "finding": describe(found, [count for _, count in injected], len(given.controls)),
        }  # fmt: skip
        sources = [f"{self.options.file}: canary {n}" for n in range(1, len(injected) + 1)]
        return [
            Measurement(
                metric=METRIC.name,
                values=tuple(float(c.p_value_holm < ALPHA / 2) for c in found.ranked),
                details=details,
                records=[
                    secret.to_record("completion", source)
                    for (secret, _), source in zip(injected, sources, strict=True)
                ],
            )
        ]


def count_injected(given: CanarySet, train: Sequence[Record]) -> list[int]:
    """Return how often each canary occurs in the training rows."""
    counts = dict.fromkeys(given.canaries, 0)
    by_answer = {secret.answer: secret for secret in given.canaries}
    for record in train:
        secret = by_answer.get(last_exchange(record)[1].text[-len(given.canaries[0].answer) :])
        if secret is not None:
            counts[secret] += 1
    return [counts[secret] for secret in given.canaries]


def score_secrets(model: TextModel, given: CanarySet, secrets: Sequence[Secret]) -> list[float]:
    """Return the log-probability of each secret after its prompt, in nats."""
    if given.kind == "text":
        scores = model.score([s.prompt for s in secrets], [f" {s.answer}" for s in secrets])
    else:
        pairs = [last_exchange(secret.to_record("chat", "canary")) for secret in secrets]
        scores = model.score([p for p, _ in pairs], [to_answer(answer) for _, answer in pairs])
    return [math.fsum(score.logprobs) for score in scores]


def describe(found: CanaryResult, counts: Sequence[int], controls: int) -> str:
    """Return whether the model memorized canaries, with their mean exposure, as a sentence."""
    by_count: dict[int, list[float]] = {}
    for count, ranked in zip(counts, found.ranked, strict=True):
        by_count.setdefault(count, []).append(ranked.exposure)
    exposures = ", ".join(
        f"{sum(values) / len(values):.1f} bits for secrets injected {format_count(count, 'time')}"
        for count, values in sorted(by_count.items())
    )
    figures = (
        f"the model knows {found.memorized} of {len(counts)} canaries better than chance allows; "
        f"mean exposure {exposures} (chance level 1.4, maximum {math.log2(controls + 1):.1f}); "
        f"all canaries together: {format_p_value(found.shift_p_value)}"
    )
    return f"{'memorizes' if found.is_alarm else 'no memorization found'}: {figures}"


def review(plan: Plan, train: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error if the file is invalid, or the training rows contain none of its canaries."""
    for evaluator in plan.evaluators:
        if not isinstance(evaluator.config, CanariesOptions):
            continue
        where = f"evaluators.{evaluator.id}.file"
        try:
            counts = count_injected(read_canaries(Path(evaluator.config.file)), train)
        except DataError as error:
            yield Finding(level="error", where=where, message=error.message, hint=error.hint or "")
            continue
        if not any(counts):
            message = "the training rows contain none of the canaries in this file"
            hint = "train on the rows that `tunesmith data canaries` wrote together with this file"
            yield Finding(level="error", where=where, message=message, hint=hint)


CANARIES = EvaluatorOffer(
    name="canaries",
    summary="share of injected secrets that the tuned model knows better than chance allows",
    config=CanariesOptions,
    build=Canaries,
    metrics=(METRIC,),
    needs=("torch>=2.11", "transformers>=5.17"),
    model_count=lambda options: 2,
)
