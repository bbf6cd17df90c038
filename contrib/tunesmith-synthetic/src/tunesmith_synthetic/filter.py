"""Reject generated rows: leaks, duplicates, wrong answers, and more rows than the share allows.

Each stage returns a cause for every row that it rejects, so nothing is dropped silently. A row is
rejected by the first stage that finds a cause.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

import numpy as np

from tunesmith.errors import UsageError
from tunesmith.generators import GeneratedRow
from tunesmith.records import Chat, Message, Record, exchanges
from tunesmith.storage import write_atomic
from tunesmith_data import UNUSABLE_CHARACTERS
from tunesmith_data.coverage import measure_coverage, read_prompts
from tunesmith_data.near_duplicates import cluster_texts, find_nearest
from tunesmith_data.near_duplicates.features import fold_case_and_spelling
from tunesmith_data.near_duplicates.punctuation import blank_punctuation
from tunesmith_data.splits import PromptTexts, prompt_text
from tunesmith_data.text import content_key
from tunesmith_data.vectors import fit_text_vectors
from tunesmith_evidence.answers.generate import generate_answers
from tunesmith_evidence.endpoint.client import Endpoint
from tunesmith_evidence.judging.quoting import choose_mark, quote_text
from tunesmith_evidence.tasks.json_answers import FieldPath, parse_json_object
from tunesmith_evidence.tasks.kinds import detect_record_task
from tunesmith_synthetic.generators.pool import read_answer, shuffle_rows
from tunesmith_synthetic.generators.pseudo_label import TO_LABEL
from tunesmith_synthetic.options import JudgeOptions
from tunesmith_synthetic.request import Request

BLOCK_ROWS = 512
"""Number of rows whose similarities to all test rows are held in memory at a time."""
JUDGE_TOKENS = 8
MIN_QUOTED_WORDS = 5
"""A test prompt with fewer words may occur in a longer prompt by chance."""
LOOK_ALIKES = str.maketrans("аеорсухіјѕԁһԛԝαεικνορτυχ", "aeopcyxijsdhqwaeikvoptux")
"""Cyrillic and Greek letters that look like Latin letters, in lower case."""
Stage = Callable[[Request, Sequence[Record]], Sequence[str]]
"""Returns a cause for each row, empty to keep it."""


@dataclass(frozen=True)
class Filtered:
    """The rows to keep, and the rejected rows with their causes."""

    kept: list[GeneratedRow]
    rejected: list[tuple[GeneratedRow, str]]

    def apply(self, request: Request, stage: Stage) -> Filtered:
        """Return the rows that a further stage keeps, and all rows rejected so far."""
        causes = stage(request, [row.record for row in self.kept])
        pairs = [*zip(self.kept, causes, strict=True)]
        rejected = [pair for pair in pairs if pair[1]]
        return Filtered([row for row, cause in pairs if not cause], self.rejected + rejected)


def filter_rows(request: Request, rows: Sequence[GeneratedRow]) -> Filtered:
    """Pass the rows through all stages."""
    options = request.options
    stages: list[Stage] = [find_faults, find_leaks, find_duplicates]
    if options.filter.known_answers:
        stages.insert(1, find_wrong_answers)
    stages += [partial(find_disagreement, name=name) for name in options.filter.agree]
    if options.filter.judge is not None:
        stages.append(partial(find_refused, judge=options.filter.judge))
    found = Filtered([*rows], [])
    for stage in stages:
        found = found.apply(request, stage)
    if options.balance.towards:
        found = Filtered(sort_by_need(request, found.kept), found.rejected)
    return found.apply(request, find_surplus)


def find_faults(request: Request, records: Sequence[Record]) -> list[str]:
    """Find rows that cannot be trained on."""
    return [_find_fault(record, request.options.filter.max_characters) for record in records]


def _find_fault(record: Record, max_characters: int) -> str:
    answers = [answer for _, answer in exchanges(record)]
    if not answers or not all(answer.text.strip() or answer.tool_calls for answer in answers):
        return "the answer is empty"
    if not prompt_text(record).strip():
        return "the prompt is empty"
    content = content_key(record)
    if UNUSABLE_CHARACTERS.search(content):
        return "it contains an unusable character"
    return "it is too long" if len(content) > max_characters else ""


def find_wrong_answers(request: Request, records: Sequence[Record]) -> list[str]:
    """Find answers that no training row could have."""
    known = [*map(read_answer, request.parts.train)]
    match detect_record_task(request.parts.train):
        case "classes":
            labels = set(known)
            return [
                "" if read_answer(r) in labels else "the answer is not a known label"
                for r in records
            ]
        case "objects":
            keys = [set(fields) for fields in map(parse_json_object, known) if fields]
            needed, allowed = set.intersection(*keys), set.union(*keys)
            return [_find_wrong_fields(read_answer(record), needed, allowed) for record in records]
    return [""] * len(records)


def _find_wrong_fields(answer: str, needed: set[FieldPath], allowed: set[FieldPath]) -> str:
    fields = parse_json_object(answer)
    if fields is None:
        return "the answer is not a JSON object"
    if not needed <= fields.keys():
        return "the answer lacks a field"
    return "" if fields.keys() <= allowed else "the answer has an unknown field"


def find_leaks(request: Request, records: Sequence[Record]) -> list[str]:
    """Find rows whose prompt a validation or test row has, in the same or in similar words."""
    known, asked = [*PromptTexts(request.held_out)], [*map(prompt_text, records)]
    if not (known and asked):
        return [""] * len(asked)
    options = request.options.filter
    causes = [_name_match(match, "a test row") for match in find_nearest(known, asked)]
    plain, queries = _simplify(known), _simplify(asked)
    for row, match in enumerate(find_nearest(plain, queries, threshold=None)):
        if match is not None and not causes[row]:
            share = _share_text(plain[match.known], queries[row])
            if share >= options.test_spelling:
                causes[row] = "it is a near-duplicate of a test row"
    if request.encoder is None:
        return causes
    tested = np.asarray(request.encoder.encode([*known]))
    vectors = np.asarray(request.encoder.encode(asked))
    for start in range(0, len(asked), BLOCK_ROWS):
        nearest = (vectors[start : start + BLOCK_ROWS] @ tested.T).max(axis=1)
        for row in np.flatnonzero(nearest >= options.test_meaning).tolist():
            causes[start + row] = causes[start + row] or "it has the same meaning as a test row"
    return causes


def drop_leaked_questions(request: Request) -> None:
    """Remove the questions to a person whose prompt is a leak: their answers would be one too."""
    path = request.folder / TO_LABEL
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    chats = []
    for row in map(json.loads, lines):
        turns = [Message(turn["role"], turn["content"]) for turn in row["prompt"]]
        chats.append(Chat(source=TO_LABEL, messages=(*turns, Message("assistant", row["left"]))))
    causes = find_leaks(request, chats)
    kept = [line for line, cause in zip(lines, causes, strict=True) if not cause]
    write_atomic(path, "".join(kept))


def _simplify(texts: Sequence[str]) -> list[str]:
    """Return texts without case, punctuation and look-alike letters, so that words are left."""
    folded = (text.translate(LOOK_ALIKES) for text in fold_case_and_spelling(texts))
    return [" ".join(blank_punctuation(text).replace("_", " ").split()) for text in folded]


def _share_text(known: str, asked: str) -> float:
    """Return the largest share of text that two simplified prompts have in common.

    It is the share of equal characters, of equal words in any order, or of words that quote the
    known prompt, such as after a greeting.
    """
    characters = SequenceMatcher(None, known, asked, autojunk=False).ratio()
    words, others = known.split(), asked.split()
    common = (Counter(words) & Counter(others)).total()
    equal = 2 * common / max(1, len(words) + len(others))
    return max(characters, equal, _share_quoted(words, others))


def _share_quoted(known: Sequence[str], asked: Sequence[str]) -> float:
    """Return the share of equal words, in order, where a prompt quotes the known prompt."""
    blocks = SequenceMatcher(None, known, asked, autojunk=False).get_matching_blocks()[:-1]
    if len(known) < MIN_QUOTED_WORDS or not blocks:
        return 0.0
    quoted = blocks[-1].b + blocks[-1].size - blocks[0].b
    return sum(block.size for block in blocks) / max(len(known), quoted)


def find_duplicates(request: Request, records: Sequence[Record]) -> list[str]:
    """Find rows that repeat a training row or an earlier generated row."""
    train, asked = request.parts.train, [*map(prompt_text, records)]
    if request.generator.offer.makes_variations:
        seen = {(prompt_text(record), read_answer(record)) for record in train}
        causes = []
        for key in zip(asked, map(read_answer, records), strict=True):
            causes.append("it is a copy of another row" if key in seen else "")
            seen.add(key)
        return causes
    near = find_nearest(PromptTexts(train), asked)
    causes = [_name_match(match, "a training row") for match in near]
    for row, first in enumerate(cluster_texts(asked).tolist() if asked else ()):
        if first != row:
            causes[row] = causes[row] or "it is a near-duplicate of a generated row"
    return causes


def _name_match(match: object, other: str) -> str:
    if match is None:
        return ""
    kind = "copy" if getattr(match, "identical", False) else "near-duplicate"
    return f"it is a {kind} of {other}"


def find_disagreement(request: Request, records: Sequence[Record], name: str) -> list[str]:
    """Find rows that a baseline, which learned from the real rows, answers differently.

    Raises:
        UsageError: the baseline cannot answer such rows.
    """
    variant = next(iter(request.solve(name, request.parts.train)), None)
    if variant is None:
        raise UsageError(
            f"filter.agree: the baseline {name} has no answers for these rows",
            hint="remove it from filter.agree, or choose a baseline that suits the rows",
        )
    given = generate_answers(variant.model, records) if records else ()
    pairs = zip(records, given, strict=True)
    return ["" if read_answer(r) == text.strip() else f"{name} disagrees" for r, text in pairs]


def find_refused(request: Request, records: Sequence[Record], judge: JudgeOptions) -> list[str]:
    """Find rows that a model at a server does not accept; a reply other than yes rejects."""
    endpoint = Endpoint(judge.url, judge.model, judge.token, parallel=judge.parallel, role="judge")
    bodies = [{"messages": [{"role": "user", "content": _ask(r, judge)}]} for r in records]
    replies = endpoint.ask(bodies, JUDGE_TOKENS) if bodies else []
    is_right = [re.match(r"\W*yes\b", reply.text, re.IGNORECASE) for reply in replies]
    return ["" if each else "the judge does not accept it" for each in is_right]


def _ask(record: Record, judge: JudgeOptions) -> str:
    """Return the question for a judge; no row can close its quotation marks."""
    texts = {"REQUEST": prompt_text(record), "ANSWER": read_answer(record)}
    mark = choose_mark(*texts.values())
    quoted = "\n".join(quote_text(name, text, mark) for name, text in texts.items())
    return f"{quoted}\n\nCriterion: {judge.criterion}\nIs it met? Reply with yes or no only."


def sort_by_need(request: Request, rows: Sequence[GeneratedRow]) -> list[GeneratedRow]:
    """Return rows like production prompts that the training rows do not cover first."""
    production = PromptTexts(read_prompts(Path(str(request.options.balance.towards))).train)
    known, encoder = PromptTexts(request.parts.train), request.encoder
    covered = measure_coverage(known, production, encoder=encoder)
    needed = [production[far.row] for far in covered.chosen]
    if not (needed and rows):
        return [*rows]
    texts = [*needed, *(prompt_text(row.record) for row in rows)]
    vectors = np.asarray(encoder.encode(texts) if encoder else fit_text_vectors(texts))
    scores = (vectors[len(needed) :] @ vectors[: len(needed)].T).max(axis=1)
    return [rows[row] for row in np.argsort(-scores, kind="stable").tolist()]


def find_surplus(request: Request, records: Sequence[Record]) -> list[str]:
    """Find the rows beyond the share of synthetic rows, or beyond the share of their answer.

    The rows to keep are chosen at random, or from the start if they are sorted by need.
    """
    real, total, share = request.real_rows, len(request.parts.train), request.options.share
    limit = int(real * share / (1 - share) + 1e-9) - (total - real)
    counts = Counter(map(read_answer, request.parts.train))
    quota = -(-(total + limit) // max(1, len(counts))) if request.options.balance.answers else None
    is_sorted = request.options.balance.towards is not None
    order = [*range(len(records))] if is_sorted else shuffle_rows(len(records), request.seed)
    causes = _list_surplus([records[row] for row in order], limit, counts, quota)
    by_row = dict(zip(order, causes, strict=True))
    return [by_row[row] for row in range(len(records))]


def _list_surplus(
    records: Sequence[Record], limit: int, counts: Counter[str], quota: int | None
) -> Iterator[str]:
    for record in records:
        answer = read_answer(record)
        if quota is not None and counts[answer] >= quota:
            yield "enough rows already have its answer"
        elif limit <= 0:
            yield "the share of synthetic rows is reached"
        else:
            limit -= 1
            counts[answer] += 1
            yield ""
