"""Find text that belongs to a template, a page or a program rather than to the task."""

from __future__ import annotations

import re

from tunesmith.text import safe_text
from tunesmith_plugins.checks.rows.detectors import Detector, Detectors, Find, around, search
from tunesmith_plugins.checks.rows.row import Row

CONTROL_TOKENS = (
    r"<[|｜][A-Za-z][^<>|｜\n]{1,40}[|｜]>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|^<s>|</s>$"
)
NEXT_TURN = r"^(?:Human|User|Assistant|AI|### ?(?:Instruction|Response|Input)) ?:"
NEXT_TURN_MARKS = ("Human", "User", "Assistant", "AI", "###")
SLOTS = (
    r"\{\{ ?[A-Za-z][\w .-]{0,40} ?\}\}"
    # Not in code: ${name}, \name{...}, {"a": ...}, f"{name}", {a}{b}, and paths.
    r"|(?<![\w$\\{}\"'(\[=:%/])\{[a-z]+(?:_[a-z]+)*\}(?![}\"'\])/])"
    r"|\[(?!INST\])[A-Z]{3,}(?:[_ ][A-Z]+)*\]"
    r"|\[(?:Your|Insert|Company|Customer|Recipient)\b[^\]\n]{0,40}\]"
)
REFUSAL = (
    r"\bas an? (?:ai|artificial intelligence)(?: language)? (?:model|assistant)\b"
    r"|\bas a (?:large )?language model\b|\bi['’]m (?:just )?an ai\b"
    r"|\bi(?:['’]m| am) sorry, (?:but )?i (?:can['’]?t|cannot|am unable to) "
    r"(?:assist|help|fulfill|comply|provide|do that)\b"
    r"|\bi (?:cannot|can['’]t) fulfill (?:this|that|your) request\b"
)
REFUSAL_MARKS = ("AI", "anguage model", "sorry", "ulfill")


def _hidden() -> Find:
    """Return a function that finds characters that are not shown, or change the order of others.

    Marks of direction are usual in Hebrew and Arabic; joiners in Indic scripts and emoji.
    """
    ascii_only = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
    every = re.compile(
        "[\0-\x08\x0b\x0c\x0e-\x1f\x7f\xad\u200b\u2028\u2029"
        "\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    )

    def find(row: Row) -> str | None:
        match = (ascii_only if row.text.isascii() else every).search(row.text)
        return safe_text(around(row.text, match)) if match else None

    return find


def _misread_utf8() -> Find:
    """Return a function that finds UTF-8 that was read as Latin-1 or Windows-1252."""
    second_bytes = bytes(range(0x80, 0xC0))
    characters = second_bytes.decode("cp1252", "ignore") + second_bytes.decode("latin-1")
    # A quotation mark after a capital letter of another language is no accident: German »Ä«.
    second = f"(?![«»“”‘’‹›„‚])[{re.escape(characters)}]"
    # A set first, and what is before it looked up later: then the search skips other characters.
    pattern = re.compile(
        "[ÂÃÄÅâÐÑ\x80-\x84\x86-\x9f\ufffd](?:"
        f"(?<=[ÂÃÄÅ]){second}|(?<=â)(?:[€\x80][{re.escape(characters)}]|[„\x84‚\x82]{second})"
        f"|(?<=[ÐÑ]){second}[ÐÑ]{second}|(?<=[\x80-\x9f\ufffd]))"
    )

    def find(row: Row) -> str | None:
        if row.text.isascii():
            return None
        match = pattern.search(row.text)
        return around(row.text, match) if match else None

    return find


TEXT_FAULTS = (
    Detector(
        "rows have control tokens of a chat template in their text",
        search(CONTROL_TOKENS, "<", "INST]", flags=re.MULTILINE),
        "remove them; the chat template writes its own",
        can_be_intended=False,
    ),
    Detector(
        "answers go on with the next turn of a conversation",
        search(NEXT_TURN, *NEXT_TURN_MARKS, in_answer=True, flags=re.MULTILINE),
        "make a message of each turn",
    ),
    Detector(
        "rows have invisible or control characters",
        _hidden(),
        "remove them; nobody sees them, and the model reads them",
    ),
    Detector(
        "rows have characters that were read in the wrong encoding",
        _misread_utf8(),
        "read the original as UTF-8",
        can_be_intended=False,
    ),
    Detector(
        "rows have placeholders that nothing replaced",
        search(SLOTS, "{", "["),
        "fill them in, or leave the rows out",
    ),
    Detector(
        "rows have HTML comments or entities",
        search(r"<!--|&(?:amp|lt|gt|quot|nbsp|#39|#x27);", "<!--", ";"),
        "convert them to text",
    ),
    Detector(
        "answers speak as an AI or refuse with a stock phrase",
        search(REFUSAL, *REFUSAL_MARKS, in_answer=True, flags=re.IGNORECASE),
        "leave them out, unless the model shall refuse",
    ),
)


def text_faults() -> Detectors:
    """Create the check."""
    return Detectors("text", TEXT_FAULTS)
