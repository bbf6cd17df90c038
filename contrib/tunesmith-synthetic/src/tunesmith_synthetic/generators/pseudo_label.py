"""The ``pseudo-label`` generator: label a pool with the best baseline, or with a tuned model.

Each labeler learns from the training rows. It is calibrated on predictions out of fold, because a
labeler is more confident on rows that it has seen. Rows where labelers disagree go to a person:
query by committee (Seung et al. 1992).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tunesmith.contracts import SkippedRow, TextModel
from tunesmith.errors import UsageError
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.offers import GeneratorOffer
from tunesmith.options import DataPath, Options
from tunesmith.records import Message, Prompt, Record, last_exchange, prompt_text
from tunesmith.storage import write_atomic
from tunesmith_synthetic.generators.pool import Pool, read_answer, read_pool, with_answer

TO_LABEL = "to-label.jsonl"
"""File of the rows that a person should label, for `tunesmith data annotate --ask`."""
MAX_VARIANTS = 8
MIN_ROWS = 10
PRECISION = 0.9
"""Precision of the review policy. Only its calibration is used."""


class PseudoLabelOptions(Options):
    """Options of ``[generator] use = "pseudo-label"``."""

    pool: DataPath = Field(
        min_length=1, description="File of prompts without answers: JSON Lines or lines of text."
    )
    labelers: list[str] = Field(
        ["embedding", "linear", "nearest"],
        description=(
            "Baselines that learn to label. The baseline with the best out-of-fold accuracy gives "
            "the labels, and the others must agree."
        ),
    )
    run: DataPath | None = Field(
        None,
        description=(
            "Run whose tuned model labels instead of a baseline. The run needs the evaluator "
            "`review`, which calibrates its confidence."
        ),
    )
    min_confidence: float = Field(
        0.0, ge=0, le=1, description="Reject labels with a lower calibrated confidence."
    )
    min_agreement: float = Field(
        0.6, ge=0, le=1, description="Reject labels if a smaller share of the labelers agrees."
    )
    ask: int = Field(
        20, ge=0, le=10_000, description="Maximum number of rows for a person to label."
    )

    @model_validator(mode="after")
    def _check_labelers(self) -> PseudoLabelOptions:
        if not self.labelers and self.run is None:
            raise ValueError("set `labelers` to at least one baseline, or `run` to a run folder")
        return self


@dataclass(frozen=True)
class Labels:
    """The labels that one labeler gives to the pool, with calibrated confidences."""

    name: str
    accuracy: float
    """Share of training rows that it labels correctly out of fold; 1 for the model of a run."""
    answers: Sequence[str]
    confidences: Sequence[float]


@dataclass(frozen=True)
class PseudoLabel:
    """Labels a pool."""

    options: PseudoLabelOptions

    def generate(self, task: GeneratorTask) -> Iterator[GeneratedRow | SkippedRow]:
        """Yield the rows whose label is confident and agreed on; the others are skipped.

        Raises:
            UsageError: no labeler suits the training rows.
        """
        pool = read_pool(Path(self.options.pool), task.count, task.task.seed)
        if len(task.task.train) < MIN_ROWS:
            cause = f"there are fewer than {MIN_ROWS} training rows to learn from"
            yield SkippedRow(where=self.options.pool, cause=cause)
            return
        found = sorted(self._label(task, pool), key=lambda labels: -labels.accuracy)
        if not found:
            names = ", ".join(self.options.labelers)
            raise UsageError(
                f"generator.labelers: none of {names} can learn from these training rows",
                hint="add other baselines to generator.labelers, or set generator.run to a run "
                "that the `review` evaluator measured",
            )
        disputed = []
        for number, record in enumerate(pool):
            answers = [labels.answers[number] for labels in found]
            answer, confidence = answers[0], found[0].confidences[number]
            agreement = answers.count(answer) / len(answers)
            if agreement < 1:
                other = next(each for each in answers if each != answer)
                disputed.append((confidence, number, answer, other))
            if not answer.strip() or agreement < self.options.min_agreement:
                yield SkippedRow(where=record.source, cause="the labelers disagree")
            elif confidence < self.options.min_confidence:
                yield SkippedRow(where=record.source, cause="the confidence is too low")
            else:
                details = {
                    "labeler": found[0].name,
                    "confidence": f"{confidence:.3f}",
                    "agreement": f"{agreement:.2f}",
                    "pool": Path(record.source).name,
                }
                labeled = with_answer(record, answer)
                yield GeneratedRow(record=labeled, model=found[0].name, details=details)
        chosen = sorted(disputed)[: self.options.ask]
        asked = [
            _ask(last_exchange(pool[row])[0], first, second) for _, row, first, second in chosen
        ]
        write_questions(task.folder / TO_LABEL, asked)

    def _label(self, task: GeneratorTask, pool: Pool) -> Iterator[Labels]:
        if self.options.run is not None:
            yield label_with_run(Path(self.options.run), pool)
        for name in self.options.labelers:
            yield from label_with_baseline(name, task, pool)


def label_with_run(folder: Path, pool: Pool) -> Labels:
    """Label the pool with the tuned model of a run, whose review policy calibrates it.

    Raises:
        UsageError: the ``review`` evaluator did not measure the tuned model.
    """
    from tunesmith import api
    from tunesmith.execution.execute import load_report
    from tunesmith_evidence.answers.generate import resolve_max_new_tokens
    from tunesmith_evidence.review.policy import find_policies

    run, plan, _ = api.load_run(folder)
    policies = find_policies([*load_report(run).measured.values()])
    if "tuned" not in policies:
        raise UsageError(
            f"{folder}: the confidence of its model is not calibrated",
            hint='add [[evaluators]] use = "review" to its run file, and run it again',
        )
    model = api.open_models(run, plan)["tuned"]
    limit = resolve_max_new_tokens("auto", plan_rows(plan))
    given = policies["tuned"].answer(model, [last_exchange(r)[0] for r in pool], limit)
    answers, confidences = [g.text.strip() for g in given], [g.confidence for g in given]
    return Labels(f"run {folder.name}", 1.0, answers, confidences)


def plan_rows(plan: Any) -> Sequence[Record]:
    """Return the training rows of a run, whose answers limit the length of further ones."""
    from tunesmith.execution.run_data import load_data

    return load_data(plan)[1].train


def label_with_baseline(name: str, task: GeneratorTask, pool: Pool) -> Iterator[Labels]:
    """Label the pool with the variant of a baseline that is most accurate out of fold."""
    from tunesmith_evidence.classify.folds import FOLDS, assign_folds
    from tunesmith_evidence.review.choose import choose_policy

    train = task.task.train
    units = (record.group or prompt_text(last_exchange(record)[0]) for record in train)
    folds = assign_folds([*units])
    held_out: dict[int, dict[int, tuple[str, float]]] = defaultdict(dict)
    for fold in range(FOLDS):
        rows = [row for row, own in enumerate(folds) if own == fold]
        others = [record for record, own in zip(train, folds, strict=True) if own != fold]
        if rows and others:
            for number, variant in enumerate(islice(task.solve(name, others), MAX_VARIANTS)):
                given = answer_with(variant.model, [train[row] for row in rows])
                held_out[number].update(zip(rows, given, strict=True))
    variants = [*islice(task.solve(name, train), MAX_VARIANTS)]
    expected = [*map(read_answer, train)]
    measured = {
        number: [found[row][0] == answer for row, answer in enumerate(expected)]
        for number, found in held_out.items()
        if len(found) == len(train) and number < len(variants)
    }
    if not measured:
        return
    best = max(measured, key=lambda number: sum(measured[number]))
    outcomes = measured[best]
    scores = [held_out[best][row][1] for row in range(len(train))]
    policy = choose_policy(scores, outcomes, [record.group for record in train], PRECISION)
    given = answer_with(variants[best].model, pool)
    yield Labels(
        f"{name} {variants[best].name}".strip(),
        sum(outcomes) / len(outcomes),
        [answer for answer, _ in given],
        [policy.confidence(score) for _, score in given],
    )


def answer_with(model: TextModel, records: Sequence[Record]) -> list[tuple[str, float]]:
    """Return a model's answers, each with a score that grows with its confidence."""
    from tunesmith_evidence.answers.generate import MAX_NEW_TOKENS
    from tunesmith_evidence.review.scores import score_answers

    prompts = [last_exchange(record)[0] for record in records]
    given = model.generate(prompts, MAX_NEW_TOKENS) if prompts else []
    scores = score_answers(model, prompts, given) if prompts else []
    return [(g.text.strip(), score) for g, score in zip(given, scores, strict=True)]


def write_questions(path: Path, asked: Sequence[Mapping[str, Any]]) -> None:
    """Write rows for `tunesmith data annotate`; rows that a person has decided on are kept."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    decided = {row["pair"]: row for row in map(json.loads, lines) if row.get("choice")}
    rows = {row["pair"]: row for row in asked} | decided
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values())
    write_atomic(path, text)


def _ask(prompt: Prompt, first: str, second: str) -> Mapping[str, Any]:
    """Return a row for `tunesmith data annotate`: which of two labels is right."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    content = json.dumps([messages, first, second], ensure_ascii=False)
    pair = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {"prompt": messages, "left": first, "right": second, "pair": pair, "choice": ""}


PSEUDO_LABEL: GeneratorOffer[Any] = GeneratorOffer(
    name="pseudo-label",
    summary="a pool of prompts, labeled by the best baseline or a tuned model",
    config=PseudoLabelOptions,
    build=PseudoLabel,
    needs=("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13"),
)
