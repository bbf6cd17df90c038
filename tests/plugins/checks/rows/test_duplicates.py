"""Repeated rows and contradictory answers are found, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from clean_rows import clean_rows, label_rows, row, show

from tunesmith.records import Completion, Message, Preference, Record, Text, UnpairedPreference
from tunesmith_plugins.checks.rows.check import show_share
from tunesmith_plugins.checks.rows.duplicates import Duplicates
from tunesmith_plugins.checks.rows.review import review


def found(rows: list[Completion] | list[Record]) -> list[tuple[str, str]]:
    return [(f.level, show(f)) for f in review(rows, checks=[Duplicates])]


def renamed(rows: list[Completion]) -> list[Completion]:
    return [replace(row, source=f"more.jsonl:{n}") for n, row in enumerate(rows, start=1)]


def test_clean_rows_have_no_finding() -> None:
    assert found(clean_rows()) == []
    assert found(label_rows()) == []


def test_fifty_repeated_rows_are_found_apart_from_case_spacing_and_punctuation() -> None:
    rows = clean_rows()
    copies = [
        replace(row, prompt=row.prompt.upper().replace(" ", "  "), completion=f"{row.completion}!")
        for row in rows[:50]
    ]
    ((level, message),) = found(rows + renamed(copies))
    assert level == "warning"
    assert message == (
        "50 of 850 training rows (5.9 %) repeat an earlier row (ignoring case, spacing and "
        'punctuation): more.jsonl:1 "WHERE IS THE PARCEL THAT I ORDERED IN LEEDS ON MONDAY?" '
        'repeats rows.jsonl:1; more.jsonl:2 "CAN I RETURN MY PARCEL TO THE SHOP IN LEEDS BEFORE '
        'MONDAY?" repeats rows.jsonl:2; more.jsonl:3 "WHERE IS THE PARCEL THAT I ORDERED IN LEEDS '
        'ON TUESDAY?" repeats rows.jsonl:3; remove the copies, which give these '
        "rows several times the weight in training"
    )


def test_a_few_repeated_rows_are_no_warning() -> None:
    rows = clean_rows()
    assert [level for level, _ in found(rows + rows[:7])] == ["info"]


def test_fifty_contradictory_labels_are_found() -> None:
    rows = label_rows()
    wrong = [replace(row, completion="complaint") for row in rows[:50]]
    ((level, message),) = found(rows + renamed(wrong))
    assert level == "warning"
    assert message.startswith(
        "50 prompts in 850 training rows have more than one answer: "
        '"Where is the parcel that I ordered in Leeds on Monday?": '
        'rows.jsonl:1 "returns" and more.jsonl:1 "complaint"; '
    )


def test_labels_that_differ_in_a_sign_are_contradictory() -> None:
    rows = [row(n, f"mood of text {n % 20}", "-1" if n < 20 else "1") for n in range(40)]
    ((level, message),) = found(rows)
    assert level == "warning"
    assert message.startswith("20 prompts in 40 training rows have more than one answer")


def test_different_free_texts_for_one_prompt_are_no_warning() -> None:
    rows = clean_rows()
    others = [replace(row, completion=f"Please ask us again, {row.completion}") for row in rows]
    assert [level for level, _ in found(rows + renamed(others))] == ["info"]


def test_signs_and_points_make_prompts_and_answers_different() -> None:
    sums = [
        row(line, f"{text} = ?", answer)
        for line, (text, answer) in enumerate(
            [("3 + 2", "5"), ("3 - 2", "1"), ("1.5 * 2", "3"), ("15 * 2", "30")]
        )
    ]
    commands = [row(90, "Append the list", "ls > a"), row(91, "Append the list", "ls >> a")]
    assert found(sums) == []
    assert found([*sums, *label_rows()]) == []
    (answers,) = found(commands)
    assert (
        answers[0] == "info"
        and "1 prompt in 2 training rows has more than one answer" in answers[1]
    )
    assert found([replace(one, prompt=f"{one.prompt} {one.completion}") for one in commands]) == []


def test_labels_of_one_prompt_that_differ_in_a_sign_are_contradictory() -> None:
    rows = label_rows(("-1", "0", "1"))
    wrong = [replace(row, completion={"-1": "1", "1": "-1", "0": "0."}[row.completion])
             for row in rows]  # fmt: skip
    levels = dict(found([*rows, *renamed(wrong)]))
    assert levels["warning"].startswith("533 prompts in 1,600 training rows have ")
    assert "more than one answer" in levels["warning"]


def test_every_kind_of_record_is_compared() -> None:
    prompt = (Message("user", "Which one?"),)
    pair = Preference(source="a:1", prompt=prompt, chosen="This one", rejected="That one")
    good = UnpairedPreference(source="a:2", prompt=prompt, completion="This one", label=True)
    text = Text(source="a:3", text="All of it")
    assert found([pair, good, replace(good, label=False), text, Record(source="a:5")]) == []
    assert len(found([pair, pair])) == len(found([good, good])) == len(found([text, text])) == 1
    assert found([pair, replace(pair, chosen="Neither")]) == []


def test_scripts_and_symbols_are_compared_by_their_characters() -> None:
    assert found([row(1, "हाँ", "कि"), row(2, "हाँ", "की")])[0][0] == "info"
    assert found([row(1, "How was it?", "👍"), row(2, "How was it", "👍")])[0][0] == "warning"
    assert found([Text(source="a:1", text="👍"), Text(source="a:2", text="👎")]) == []


def test_test_prompts_that_recur_are_found_unless_a_group_has_them() -> None:
    test = [Completion(source=f"h:{n}", prompt=f"q {n % 40}", completion="a") for n in range(60)]
    (finding,) = review(clean_rows(), test=test, checks=[Duplicates])
    assert finding.level == "warning" and finding.count == 20
    assert finding.message.startswith("20 of 60 test rows (33 %) repeat the prompt of an earlier")
    assert finding.examples[0] == 'h:40 "q 0"'
    grouped = [replace(row, group=row.prompt) for row in test]
    assert review(clean_rows(), test=grouped, checks=[Duplicates]) == []
    other = [replace(row, group=row.source) for row in test]
    assert len(review(clean_rows(), test=other, checks=[Duplicates])) == 1
    (few,) = review(clean_rows(), test=test[:41], checks=[Duplicates])
    assert few.level == "info"


def test_a_share_is_printed_with_its_numbers() -> None:
    assert show_share(12, 3456, "rows") == "12 of 3,456 rows (0.35 %)"
    assert show_share(3456, 3456, "rows") == "3,456 of 3,456 rows (100 %)"
