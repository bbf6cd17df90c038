"""Checks of baselines, with a fake base model and a fake encoder that return digests of texts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from tunesmith.contracts import (
    BaselineTask,
    BaselineVariant,
    Generation,
    Progress,
    TextModel,
    TokenScores,
)
from tunesmith.errors import UsageError
from tunesmith.records import Answer, Completion, Prompt, Record, last_exchange, to_answer
from tunesmith.testing.checks import NotApplicable, Subject, check, require
from tunesmith.testing.examples import CHATS, COMPLETIONS, PREFERENCES, TEXTS, UNPAIRED_PREFERENCES

CLASSES = tuple(
    Completion(
        source=f"kit:{n}",
        prompt=f"Is {n * 7 % 10} even or odd, said {'Ann' if n % 3 else 'Ben'} on day {n}",
        completion="odd" if n % 2 else "even",
    )
    for n in range(24)
)
OBJECTS = tuple(
    Completion(
        source=record.source,
        prompt=record.prompt,
        completion=json.dumps({"answer": record.completion, "day": n}),
    )
    for n, record in enumerate(CLASSES)
)
RECORD_SETS: tuple[tuple[Record, ...], ...] = (
    CLASSES,
    OBJECTS,
    COMPLETIONS,
    CHATS,
    PREFERENCES,
    TEXTS,
    UNPAIRED_PREFERENCES,
)
MAX_VARIANTS = 40
"""Maximum number of a baseline's variants that are checked."""
MAX_NEW_TOKENS = 16


class DigestModel:
    """A text model whose results depend on every character of its input, and on nothing else."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the digest of each prompt."""
        return [Generation(_digest(prompt), 2, "stop") for prompt in prompts]

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return a number between -1 and 0 for each pair of prompt and completion."""
        digests = [_digest(pair) for pair in zip(prompts, completions, strict=True)]
        return [TokenScores((-int(digest, 16) / 16**8,)) for digest in digests]

    def embed(
        self, prompts: Sequence[Prompt], *, progress: Progress | None = None
    ) -> list[list[float]]:
        """Return the digits of each prompt's digest."""
        return [[float(int(digit, 16)) for digit in _digest(prompt)] for prompt in prompts]


class DigestEncoder:
    """An encoder whose vectors are digests of the texts."""

    def encode(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> list[list[float]]:
        """Return the digest of each text as a vector of length 1."""
        digits = [[1.0 + int(digit, 16) for digit in _digest(text)] for text in texts]
        return [[digit / math.hypot(*row) for digit in row] for row in digits]


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


def choose_records(subject: Subject) -> tuple[Record, ...]:
    """Return records for which the baseline is a default, otherwise records with classes."""
    suited = (records for records in RECORD_SETS if subject.offer.suits(records))
    return next(suited, RECORD_SETS[0])


def sample_task(subject: Subject, records: Sequence[Record]) -> BaselineTask:
    """Return a task with the records as training rows."""

    def base() -> TextModel:
        require(
            subject.offer.needs_model,
            "the baseline queries the base model, but its offer does not set needs_model",
        )
        return DigestModel()

    return BaselineTask(
        train=records,
        base=base,
        seed=3,
        system_prompt="Answer briefly.",
        encoder=DigestEncoder,
    )


def list_variants(subject: Subject, records: Sequence[Record]) -> list[BaselineVariant]:
    """Return the variants of a new baseline, at most 40."""
    found = subject.build().variants(sample_task(subject, records))
    return list(islice(found, MAX_VARIANTS))


def solved(subject: Subject) -> list[tuple[BaselineVariant, list[str]]]:
    """Return each variant with its answers to the sample records; cached."""
    if "solved" not in subject.cache:
        records = choose_records(subject)
        variants = list_variants(subject, records)
        subject.cache["solved"] = [(v, answers(subject, v, records)) for v in variants]
    found: list[tuple[BaselineVariant, list[str]]] = subject.cache["solved"]
    if not found:
        raise NotApplicable("the baseline has no variants for the sample records and options")
    return found


def answers(subject: Subject, variant: BaselineVariant, records: Sequence[Record]) -> list[str]:
    """Return the variant's answers to the prompts of the records.

    If the variant only ranks answers, return the scores of the records' answers instead.
    """
    exchanges = [last_exchange(record) for record in records]
    prompts = [prompt for prompt, _ in exchanges]
    if subject.offer.ranks_answers:
        scores = variant.model.score(prompts, [to_answer(answer) for _, answer in exchanges])
        return [str(score.logprobs) for score in scores]
    return [generation.text for generation in variant.model.generate(prompts, MAX_NEW_TOKENS)]


@check("baseline")
def variants_have_names_of_their_own(subject: Subject) -> None:
    """All variants have different names; a name may be empty only if there is one variant."""
    names = [variant.name for variant, _ in solved(subject)]
    require(len(set(names)) == len(names), f"two variants have the same name: {names}")
    require(len(names) == 1 or "" not in names, "one of several variants has no name")
    for name in names:
        is_clean = name == name.strip() and (not name or name.isprintable())
        require(
            is_clean, f"the variant's name {name!r} has spaces at an end or unprintable characters"
        )


@check("baseline")
def answers_every_prompt(subject: Subject) -> None:
    """A variant gives one answer per prompt, and no answers without prompts."""
    records = choose_records(subject)
    for variant, given in solved(subject):
        what = f"the variant gives {len(given)} answers to {len(records)} prompts"
        require(len(given) == len(records), what)
        require(
            answers(subject, variant, []) == [], "the variant answers although it got no prompts"
        )


@check("baseline")
def solves_the_same_way_twice(subject: Subject) -> None:
    """The same training rows and the same seed give the same answers."""
    records = choose_records(subject)
    first = [(variant.name, given) for variant, given in solved(subject)]
    second = [(v.name, answers(subject, v, records)) for v in list_variants(subject, records)]
    require(first == second, "the same baseline, built a second time, gives different answers")


@check("baseline")
def does_not_depend_on_other_prompts(subject: Subject) -> None:
    """An answer does not depend on the other prompts or on their order."""
    records = choose_records(subject)
    for variant, given in solved(subject):
        backwards = answers(subject, variant, records[::-1])[::-1]
        require(
            backwards == given,
            f"the answers of {variant.name or 'the variant'} change with the order of prompts",
        )
        for record, answer in zip(records, given, strict=True):
            alone = answers(subject, variant, [record])
            require(
                alone == [answer],
                f"{variant.name or 'the variant'} answers {record.source} with {alone} alone, but "
                "with "
                f"{answer!r} among others",
            )


@check("baseline")
def knows_only_its_training_rows(subject: Subject) -> None:
    """A baseline does not remember rows of an earlier task, which may be test rows now."""
    # The baseline has seen the records of other checks, so use new ones.
    records = [
        replace(record, prompt=f"{record.prompt}, once more")
        for record in choose_records(subject)
        if isinstance(record, Completion)
    ]
    half = len(records) // 2
    seen, unseen = records[:half], records[half:]
    if not seen:
        raise NotApplicable("the baseline is not used for prompts with completions")

    def solve(rows: Sequence[Record]) -> list[list[str]]:
        return [answers(subject, variant, unseen) for variant in list_variants(subject, list(rows))]

    first = solve(seen)
    solve(records)
    require(solve(seen) == first, "the baseline remembers training rows of an earlier task")


@check("baseline")
def leaves_training_rows_unchanged(subject: Subject) -> None:
    """The baseline does not change the training rows."""
    records = list(choose_records(subject))
    before = list(records)
    for variant in subject.build().variants(sample_task(subject, records)):
        answers(subject, variant, before)
    require(records == before, "the baseline changed the training rows")


@check("baseline")
def classifiers_refuse_to_score(subject: Subject) -> None:
    """``score`` raises UsageError, unless the baseline is a prompt or ranks answers."""
    if subject.offer.solution in ("prompt", "retrieval") or subject.offer.ranks_answers:
        raise NotApplicable("the baseline is a prompt, or it ranks answers by scores")
    for variant, _ in solved(subject):
        try:
            variant.model.score(["a prompt"], ["a completion"])
        except UsageError:
            continue
        what = "scores completions, but must raise UsageError, because it has no probabilities"
        raise AssertionError(f"{variant.name or 'the variant'} {what}")


@check("baseline")
def copes_with_few_rows(subject: Subject) -> None:
    """The baseline does not fail if there are no training rows, or only one."""
    records = choose_records(subject)
    few: tuple[Sequence[Record], ...] = ((), records[:1])
    for rows in few:
        for variant in list_variants(subject, rows):
            answers(subject, variant, records[:2])
