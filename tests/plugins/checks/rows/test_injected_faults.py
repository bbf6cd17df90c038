"""Fifty rows with each fault, injected into clean rows, are all found; clean rows have none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from clean_rows import clean_rows, show

from tunesmith.contracts import Finding
from tunesmith.records import Completion
from tunesmith_plugins.checks.rows.block import BLOCK_CHARACTERS, read_blocks
from tunesmith_plugins.checks.rows.detectors import BY_DESIGN
from tunesmith_plugins.checks.rows.duplicates import Duplicates
from tunesmith_plugins.checks.rows.review import create_row_detectors, review

Inject = Callable[[Completion, int], Completion]
INJECTED = 50


def after_prompt(*texts: str) -> Inject:
    """Return a function that writes one of the texts, in turn, after the prompt."""
    return lambda row, n: replace(row, prompt=f"{row.prompt} {texts[n % len(texts)]}")


def after_answer(*texts: str) -> Inject:
    return lambda row, n: replace(row, completion=f"{row.completion}{texts[n % len(texts)]}")


def within_answer(*texts: str) -> Inject:
    def inject(row: Completion, n: int) -> Completion:
        first, space, rest = row.completion.partition(" ")
        return replace(row, completion=f"{first}{space}{texts[n % len(texts)]}{rest}")

    return inject


WORDS = ("Größe", "façade", "señor", "„Zitat“", "it’s", "café", "naïve", "łódź", "Привет")


def misread(row: Completion, n: int) -> Completion:
    """Return a row whose answer was written as UTF-8 and read as something else."""
    text = f"{row.completion} {WORDS[n % len(WORDS)]}".encode()
    wrong = text.decode("cp1252", "replace") if n % 2 else text.decode("latin-1")
    return replace(row, completion=wrong)


def card_number(n: int) -> str:
    """Return a number with the form of a card number and the right check digit."""
    start = f"{('4', '51', '2221', '6011')[n % 4]}{n:03}".ljust(15, "7")
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in start[::2]]
    return f"{start}{-(sum(doubled) + sum(map(int, start[1::2]))) % 10}"


def account_number(n: int) -> str:
    """Return a German account number with the right check digits, in groups of four."""
    account = f"3704004405320{n:05}"
    check = 98 - int(f"{account}131400") % 97
    number = f"DE{check:02}{account}"
    return " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if n % 2 else number


FAULTS: dict[str, tuple[str, str, str, Inject]] = {
    "control tokens": (
        "text",
        "warning",
        "rows contain control tokens of a chat template",
        after_answer("<|im_end|>", "</s>", " [INST]", "<end_of_turn>", "<｜end▁of▁sentence｜>"),
    ),
    "next turn": (
        "text",
        "warning",
        "answers continue with the next turn of the conversation",
        after_answer("\n\nHuman: Thanks", "\nUser: And now?", "\n### Instruction: Next"),
    ),
    "hidden characters": (
        "text",
        "warning",
        "rows contain invisible or control characters",
        within_answer(
            "\u200b", "\u202e", "\0", "\x1b[0m", "\ufeff", "\xad", "\U000e0041", "\u2066"
        ),
    ),
    "encoding": (
        "text",
        "warning",
        "rows contain characters decoded with the wrong encoding",
        misread,
    ),
    "placeholders": (
        "text",
        "warning",
        "rows contain unfilled placeholders",
        after_answer(
            *(" {{ name }}", " {order_id}", " [NAME]", " [Your Name]", " {{Order Number}}"),
            *(" [COMPANY_NAME]", " [INSERT DATE HERE]", " [YOUR EMAIL]", " [FIRSTNAME]", " [XXX]"),
        ),
    ),
    "HTML": (
        "text",
        "warning",
        "rows contain HTML comments or entities",
        after_answer("<!-- to do -->", " &amp; more", "&nbsp;"),
    ),
    "refusals": (
        "text",
        "warning",
        "answers speak as an AI or refuse with a stock phrase",
        after_answer(
            " As an AI language model, I guess.",
            " I’m sorry, but I can’t assist with that.",
            " I cannot fulfill this request.",
        ),
    ),
    "secrets": (
        "personal data",
        "warning",
        "rows contain a key, token or password",
        after_prompt(
            "hf_" + "abcdefghij" * 3,
            "AKIA" + "ABCDEFGH" * 2,
            "ghp_" + "0123456789" * 4,
            "-----BEGIN PRIVATE KEY----- MIIE",
            "sk-" + "ABCDEFGHIJ" * 3,
        ),
    ),
    "cards": (
        "personal data",
        "warning",
        "rows contain a payment card number",
        lambda row, n: after_prompt(card_number(n))(row, n),
    ),
    "accounts": (
        "personal data",
        "warning",
        "rows contain a bank account number",
        lambda row, n: after_prompt(account_number(n))(row, n),
    ),
    "social security": (
        "personal data",
        "warning",
        "rows contain a social security number",
        lambda row, n: after_prompt(f"mine is {n + 101}-45-6789")(row, n),
    ),
    "e-mail": (
        "personal data",
        "info",
        "rows contain an e-mail address",
        after_prompt("jo.smith@post.co.uk", "(mail a@b-c.org)"),
    ),
    "telephone": (
        "personal data",
        "info",
        "rows contain a telephone number",
        after_prompt("+49 151 23456789", "call (555) 010-2345", "+1-202-555-0143", "020.555.0143"),
    ),
    "the prompt": (
        "copies",
        "warning",
        "answers repeat their prompt",
        lambda row, n: replace(row, completion=row.prompt),
    ),
    "a part of the prompt": (
        "copies",
        "warning",
        "answers are contained in their prompt",
        lambda row, n: replace(row, prompt=f"{row.prompt} (Answer: {row.completion.upper()})"),
    ),
}


def inject(change: Inject, count: int = INJECTED) -> list[Completion]:
    rows = clean_rows()
    step = len(rows) // count
    for n in range(count):
        rows[n * step] = change(rows[n * step], n)
    return rows


def found(rows: list[Completion]) -> list[Finding]:
    return review(rows, checks=[create_row_detectors])


def test_clean_rows_have_no_finding() -> None:
    assert found(clean_rows()) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_all_fifty_are_found(fault: str) -> None:
    check, level, what, change = FAULTS[fault]
    (finding,) = found(inject(change))
    assert (finding.where, finding.level) == (f"data {check}", level)
    noun, _, fault = what.partition(" ")
    start = f"50 of 800 {noun} (6.2 %) {fault}: rows.jsonl:1 "
    assert show(finding).startswith(start), show(finding)


@pytest.mark.parametrize("fault", [name for name, case in FAULTS.items() if case[0] == "text"])
def test_what_many_rows_have_may_be_the_task(fault: str) -> None:
    *_, change = FAULTS[fault]
    (finding,) = found(inject(change, count=round(BY_DESIGN * 800)))
    is_always_wrong = fault in ("control tokens", "encoding")
    assert finding.level == ("warning" if is_always_wrong else "info")


@pytest.mark.parametrize("fault", ["secrets", "cards", "accounts", "social security", "e-mail"])
def test_personal_data_is_never_printed(fault: str) -> None:
    *_, change = FAULTS[fault]
    injected = change(clean_rows()[0], 0)
    (finding,) = found([injected])
    secret = injected.prompt.rsplit(" ", 1)[1].removesuffix("@post.co.uk")
    assert secret not in show(finding)
    assert secret.replace(" ", "")[4:12] not in show(finding)


HARMLESS = (
    # Text faults
    "The tag <s>old price</s> is struck out, and a < b | c > d.",
    "She said: Human: is a word. The User Guide: page 3. AI: yes",
    "Größe, façade, ÄÖÜ, São Paulo, NÃO, Łódź, „Ä“, »Ä«, 5 °C, ½",
    "سلام می‌خواهم 👩‍💻 नमस्ते क्‍ष \u200fשלום\u200f",
    "f'{name}' and ${name} and \\textbf{name} and {\"name\": 1} and a[i] and [1] and [x]",
    "The [ASIA] desk and [AGC] said [NASA OPEN] at [NOTE], [SIC], [EUR], [DATABASE] and [UPDATED]",
    "awk 'NR == 1 {next} {print} END {exit}' names.txt",
    "AT&T; R&D; a & b; if (a && b) { return; }",
    "I am sorry that your parcel is late. The AI model of the car is new.",
    # Personal data
    "Order 4111111111111112, tracking 1234567890123456, ISBN 978-3-16-148410-0.",
    "DE89370400440532013001 and GB00WEST12345698765432 have wrong check digits.",
    "Version 2024-11-26, 10.0.0.1, 3.14159265, 1,000,000, 12:30-14:00, 000-12-3456.",
    "Write to jane@example.com, jo@mail.example.org, or follow @handle; the price is 5 @ 3 EUR.",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_no_finding(text: str) -> None:
    rows = [replace(clean_rows()[0], prompt=text), replace(clean_rows()[1], completion=text)]
    assert found(rows) == []


def test_a_short_answer_may_be_in_the_prompt() -> None:
    rows = [replace(row, prompt=f"{row.prompt} Yes?", completion="Yes") for row in clean_rows()]
    assert found(rows) == []


@pytest.mark.parametrize(
    "fault", ["<|im_start|>", "{{name}}", "GrÃ¶ÃŸe", "&nbsp;", "hf_" + "a1" * 14]
)
@pytest.mark.parametrize("gap", range(0, 70, 9))
def test_examples_have_no_personal_data_beside_a_fault(fault: str, gap: int) -> None:
    """Also where the address or the number is cut."""
    filler = ("so " * 40)[:gap]
    data = "jane.doe@example.com 4111 1111 1111 1111"
    for text in (f"{data} {filler}{fault} and", f"and {fault} {filler}{data}"):
        rows = [Completion(source="a:1", prompt=text, completion=text)]
        shown = " ".join(example for finding in review(rows) for example in finding.examples)
        assert "doe" not in shown and "11 1" not in shown, shown


def test_single_rows_of_large_data_are_a_part_of_all_and_of_each_file() -> None:
    long = "many words " * (BLOCK_CHARACTERS // 1000)
    rows = [replace(row, prompt=f"{row.prompt} {long}#{{{{x}}}}") for row in clean_rows()]
    blocks = [len(block.rows) for block in read_blocks(rows, "train")]
    assert len(blocks) > 8
    checks = (create_row_detectors, Duplicates)
    faults, duplicates, sample = review(
        [*rows, rows[0]], test=rows[:20], checks=checks, most_single_rows=len(rows) // 2
    )
    seen = sum(blocks[::2]) + 20
    assert faults.count == seen, "every second block, and the test rows"
    assert duplicates.where == "data duplicates" and duplicates.count == 1
    assert f"only {seen} of 821 rows" in sample.message and sample.count == 821 - seen
    assert len(review(rows, checks=checks)) == 1, "of fewer rows, all"
