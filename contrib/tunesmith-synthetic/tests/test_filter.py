"""The filter: leaks, duplicates, wrong answers, the share, and the causes."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_rows, write_lines
from faulty_server import FaultyServer
from generation import invoke, read_lines, request_of, write_generation

from tunesmith.generators import GeneratedRow
from tunesmith.records import Completion
from tunesmith_synthetic.filter import Filtered, filter_rows
from tunesmith_synthetic.generators.rules import edit

WORDS = [
    f"{first}{second}"
    for first in ("mar", "to", "pel", "qui", "ba", "stro")
    for second in ("ment", "lisk", "vano", "burg", "tide", "rock")
]


def sentence(number: int) -> str:
    """Return a sentence of ten random words."""
    return " ".join(random.Random(number).sample(WORDS, 10))


def rows_of(prompts: list[str], answer: str = "card", parent: int | None = None) -> list[Any]:
    """Return generated rows with these prompts."""
    records = [
        Completion(source=f"new:{n}", prompt=p, completion=answer) for n, p in enumerate(prompts)
    ]
    return [GeneratedRow(record=record, parent=parent) for record in records]


def prompts_of(rows: list[GeneratedRow]) -> list[str]:
    return [row.record.prompt for row in rows]  # type: ignore[attr-defined]


def causes_of(found: Filtered) -> Counter[str]:
    return Counter(cause for _, cause in found.rejected)


@pytest.fixture
def request_(project: Path) -> Any:
    """A generation with the share 0.9, whose 30 test rows are random sentences."""
    rows = [{"prompt": sentence(n), "completion": "card"} for n in range(30)]
    write_lines(project / "test.jsonl", rows)
    return request_of(
        project, {"use": "endpoint", "url": "http://127.0.0.1/v1", "model": "x"}, share=0.9
    )


def test_injected_test_rows_are_removed(request_: Any) -> None:
    """10 of 10 copies and 10 of 10 paraphrases by rule, and none of 40 other rows."""
    copies = [sentence(n) for n in range(10)]
    paraphrased = []
    for number in range(10, 20):
        record: Any = Completion(source="x", prompt=sentence(number), completion="card")
        for rule in ("typos", "punctuation", "casing"):
            record = edit(record, rule, random.Random(number), {}) or record  # type: ignore[arg-type]
        paraphrased.append(record.prompt)
    assert not {*paraphrased} & {sentence(n) for n in range(30)}
    others = [sentence(n) for n in range(100, 140)]
    rows = rows_of([*copies, *paraphrased, *others])
    random.Random(0).shuffle(rows)
    found = filter_rows(request_, rows)
    rejected = {r.record.prompt: c for r, c in found.rejected}  # type: ignore[attr-defined]
    assert [rejected.get(text) for text in copies] == ["it is a copy of a test row"] * 10
    leaks = ["it is a near-duplicate of a test row", "it is a copy of a test row"]
    assert sum(rejected.get(text) in leaks for text in paraphrased) >= 9
    assert {*prompts_of(found.kept)} == {*others}


ASKED = "I was charged two times for my order 4412, so why don't I get one payment back?"


@pytest.mark.parametrize(
    "text",
    [
        "I was two charged times for my 4412 order, so why don't I one get payment back?",
        "why don't I get one payment back, so I was charged two times for my order 4412?",
        f"{ASKED} Thanks a lot in advance, and kind regards from Anna Smith",
        f"Hello dear support team, I have a question. {ASKED}",
        f"Good morning! {ASKED.replace('payment', 'transfer')} Please answer this week",
        "I was charged twice for my order 4412, so why do not I get one payment back?",
        "I was charged 2 times for my order 4412, so why don't I get 1 payment back?",
        "I wаs сhаrgеd twо tіmеs fоr mу оrdеr 4412, sо whу dоn't I gеt оnе рауmеnt bасk?",
        ASKED.upper().replace(" ", "_"),
        "I was charged... two times! For my order (4412): so, why don't I get one payment back",
    ],
    ids=["order", "halves", "end", "start", "word", "short", "digits", "letters", "line", "marks"],
)
def test_a_test_prompt_in_other_order_letters_or_company_is_a_leak(
    project: Path, text: str
) -> None:
    write_lines(project / "test.jsonl", [{"prompt": ASKED, "completion": "card"}] * 2)
    other = "I was charged for a parcel two weeks ago; where do I get the bill for my order 7?"
    request = request_of(project, {"use": "endpoint", "url": "http://127.0.0.1/v1", "model": "x"})
    found = filter_rows(request, rows_of([text, other]))
    assert prompts_of(found.kept) == [other]


def test_the_limit_of_spelling_decides(project: Path) -> None:
    """A change of 30 % of the letters is no leak at 0.88, and is one at 0.6."""
    text = sentence(0)
    write_lines(project / "test.jsonl", [{"prompt": text, "completion": "card"}] * 2)
    changed = "".join("x" if n % 4 == 2 and c != " " else c for n, c in enumerate(text))
    for limit, kept in ((0.88, 1), (0.6, 0)):
        request = request_of(project, {"use": "rules"}, share=0.9, filter={"test_spelling": limit})
        assert len(filter_rows(request, rows_of([changed])).kept) == kept


def test_validation_rows_are_kept_out_too(project: Path) -> None:
    text = (
        (project / "run.toml")
        .read_text()
        .replace('test.jsonl"', 'test.jsonl"\nvalidation = "validation.jsonl"')
    )
    (project / "run.toml").write_text(text)
    write_lines(project / "validation.jsonl", [{"prompt": sentence(3), "completion": "card"}] * 2)
    request = request_of(project, {"use": "rules"}, share=0.9)
    assert causes_of(filter_rows(request, rows_of([sentence(3), sentence(4)]))).total() == 1


def test_a_meaning_is_a_leak_if_the_run_has_an_encoder(project: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "words.py"
    plugin.write_text(ENCODER)
    text = (project / "run.toml").read_text().replace("files = [", f'files = ["{plugin}", ')
    (project / "run.toml").write_text(f'{text}\n[encoder]\nuse = "lengths"\n')
    write_lines(project / "test.jsonl", [{"prompt": "abcd", "completion": "card"}] * 2)
    found = filter_rows(
        request_of(project, {"use": "rules"}, share=0.9), rows_of(["wxyz", "stuvwx"])
    )
    assert causes_of(found) == {"it has the same meaning as a test row": 1}
    assert prompts_of(found.kept) == ["stuvwx"]


ENCODER = """
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import EncoderOffer
from tunesmith.options import Options

class NoOptions(Options):
    pass

class Lengths:
    def __init__(self, options):
        pass

    def encode(self, texts, *, progress=None):
        return [[float(len(text) == n) for n in range(99)] for text in texts]

@hookimpl
def tunesmith_encoders():
    return [EncoderOffer(name="lengths", summary="lengths", config=NoOptions, build=Lengths)]
"""


def test_duplicates_are_found_unless_the_generator_makes_variations(
    project: Path, request_: Any
) -> None:
    known = request_.parts.train[0].prompt
    texts = [known, f"{known}!", sentence(50), sentence(50) + " ."]
    found = filter_rows(request_, rows_of(texts))
    assert prompts_of(found.kept) == [sentence(50)]
    rules = request_of(project, {"use": "rules"}, share=0.9)
    assert prompts_of(filter_rows(rules, rows_of(texts)).kept) == texts[1:]


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("", "the answer is empty"),
        ("other", "the answer is not a known label"),
        ("a\0", "it contains an unusable character"),
    ],
)
def test_an_answer_that_no_row_has_is_rejected(request_: Any, answer: str, cause: str) -> None:
    assert causes_of(filter_rows(request_, rows_of([sentence(60)], answer))) == {cause: 1}


def test_json_answers_must_have_the_known_fields(project: Path) -> None:
    answers = [json.dumps({"day": n, "place": f"p{n}"}) for n in range(20)]
    write_lines(
        project / "rows.jsonl",
        [{"prompt": sentence(200 + n), "completion": a} for n, a in enumerate(answers)],
    )
    request = request_of(project, {"use": "rules"}, share=0.9)
    given = [{"day": 1, "place": "x"}, {"day": 1}, {"day": 1, "place": "x", "time": 3}]
    rows = [rows_of([sentence(300 + n)], json.dumps(a))[0] for n, a in enumerate(given)]
    found = filter_rows(request, [*rows, *rows_of([sentence(400)], "no JSON")])
    assert len(found.kept) == 1 and causes_of(found).total() == 3


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_share_is_a_maximum(project: Path, share: float) -> None:
    request = request_of(project, {"use": "rules"}, share=share)
    found = filter_rows(request, rows_of([sentence(n) for n in range(100, 200)]))
    kept = len(found.kept)
    assert kept / (30 + kept) <= share < (kept + 1) / (31 + kept)


def test_answers_are_balanced(project: Path) -> None:
    rows = [
        row
        for row in make_rows(0, 90)
        if row["completion"] == "card" or row["prompt"].endswith("1")
    ]
    write_lines(project / "rows.jsonl", rows)
    real = Counter(row["completion"] for row in rows)
    request = request_of(project, {"use": "rules"}, share=0.6, balance={"answers": True})
    new = [rows_of([sentence(1000 * k + n)], a)[0] for k, a in enumerate(real) for n in range(60)]
    found = filter_rows(request, new)
    total = real + Counter(row.record.completion for row in found.kept)  # type: ignore[attr-defined]
    assert max(total.values()) - min(total.values()) <= max(
        1, max(real.values()) - min(total.values())
    )
    assert causes_of(found)["enough rows already have its answer"]


def test_rows_like_uncovered_production_prompts_come_first(project: Path) -> None:
    write_lines(project / "prod.jsonl", [{"prompt": f"{sentence(7)} {n}"} for n in range(5)])
    request = request_of(project, {"use": "rules"}, share=0.1, balance={"towards": "prod.jsonl"})
    texts = [sentence(n) for n in range(300, 330)] + [" ".join(reversed(sentence(7).split()))]
    assert texts[-1] in prompts_of(filter_rows(request, rows_of(texts)).kept)


def test_a_verifier_that_disagrees_rejects(project: Path) -> None:
    request = request_of(project, {"use": "rules"}, share=0.9, filter={"agree": ["linear"]})
    asked = request.parts.train[0]
    rows = [
        GeneratedRow(record=replace(asked, prompt=f"{asked.prompt} ok", completion=answer))
        for answer in ("card", "app")
    ]  # type: ignore[call-arg]
    found = filter_rows(request, rows)
    assert [row.record.completion for row in found.kept] == [asked.completion]  # type: ignore[attr-defined]
    assert causes_of(found) == {"linear disagrees": 1}


def test_a_judge_that_does_not_say_yes_rejects(project: Path) -> None:
    rows = rows_of([sentence(100), sentence(101), sentence(102)])
    replies = {sentence(100): "Yes.", sentence(101): "No, yes", sentence(102): "Yesterday"}

    def answer(body: dict[str, Any], *rest: Any) -> str:
        asked = body["messages"][0]["content"]
        assert "Criterion: be nice" in asked and "card" in asked
        return next(reply for text, reply in replies.items() if text in asked)

    with FaultyServer() as server:
        server.write = answer  # type: ignore[method-assign]
        judge = {"url": server.url, "model": "j", "criterion": "be nice"}
        request = request_of(project, {"use": "rules"}, share=0.9, filter={"judge": judge})
        found = filter_rows(request, rows)
    assert prompts_of(found.kept) == [sentence(100)]
    assert causes_of(found) == {"the judge does not accept it": 2}


def test_each_rejected_row_is_written_with_its_cause(project: Path) -> None:
    write_lines(project / "test.jsonl", make_rows(0, 6))  # copies of training rows
    done = invoke(
        "data", "generate", write_generation(project, {"use": "rules"}, share=0.3), "--json"
    )
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    rejected = Counter(row["cause"] for row in read_lines(project / "synthetic" / "rejected.jsonl"))
    assert rejected == card["rejected"] and rejected.total() + card["rows"] == card["proposed"]


def test_the_share_does_not_prefer_the_start_of_the_file(project: Path) -> None:
    """Rows are often sorted by label or time."""
    request = request_of(project, {"use": "rules", "rules": ["typos"]}, share=0.25)
    rows = rows_of([sentence(n) for n in range(100, 200)])
    kept = prompts_of(filter_rows(request, rows).kept)
    places = [n for n, row in enumerate(rows) if row.record.prompt in {*kept}]
    assert len(places) == 10 and min(places) < 40 and max(places) > 60
    assert kept == [rows[n].record.prompt for n in places], "their order changed"
    assert prompts_of(filter_rows(request, rows).kept) == kept
