"""The prose of the project: no word of the table, and no sentence that nobody finishes."""

from pathlib import Path

import pytest
from tests.prose import LONGEST_SENTENCE, ROOT, find_stumbles, list_sources, split_sentences


def test_nobody_stumbles() -> None:
    found = [
        str(stumble)
        for path in list_sources([])
        for stumble in find_stumbles(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "sentence",
    [
        "The rival is measured too.",
        "A file in which nobody looks.",
        "It has a folder of its own.",
        "What is read is no adapter.",
        "The held-out rows are scored once.",
        "We recognise colours.",
        "A row " + "and a row " * LONGEST_SENTENCE + "is long.",
    ],
)
def test_a_stumble_is_found_in_a_page_a_docstring_a_comment_and_a_message(sentence: str) -> None:
    sources = {
        "page.md": f"# A page\n\nA first sentence. {sentence} A last one.\n",
        "docstring.py": f'"""A module.\n\n{sentence}\n"""\n',
        "comment.py": f"# {sentence}\nx = 1\n",
        "message.py": f'x = 1\ny = f"{{x}}: {sentence}"\n',
    }
    for name, text in sources.items():
        assert list(find_stumbles(Path(name), text)), name


@pytest.mark.parametrize(
    "page",
    [
        "Run `rival` with `held-out` rows.",
        "```text\nthe rival of its own\n```",
        "[the baseline](rival.md)",
        "- " + "one item\n- " * LONGEST_SENTENCE + "more",
        "| " + "cell | " * LONGEST_SENTENCE,
    ],
)
def test_code_links_and_lists_are_not_sentences(page: str) -> None:
    assert not list(find_stumbles(Path("page.md"), page))


def test_sentences_end_at_full_stops_and_blocks() -> None:
    text = "It takes e.g. one. Then two: `a.b`.\n\n- an item\n- another"
    assert split_sentences(text) == [
        "It takes e.g one.",
        "Then two: `a.b`.",
        "- an item",
        "- another",
    ]
