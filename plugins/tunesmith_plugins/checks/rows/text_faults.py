"""Find text that belongs to a template, a page or a program rather than to the task."""

from __future__ import annotations

import re

from tunesmith.text import safe_text
from tunesmith_plugins.checks.rows.detectors import Detector, Find, around, search
from tunesmith_plugins.checks.rows.row import Row

# Patterns begin with a set of characters where they can, so that the search skips others.
CONTROL_TOKENS = (
    r"[<\[](?:(?<=<)(?:[|｜][A-Za-z][^<>|｜\n]{1,40}[|｜]>|</?SYS>>|(?:start|end)_of_turn>"
    r"|(?:bos|eos|pad|unk)>|s>(?<=^<s>)|/s>$)|(?<=\[)/?INST\])"
)
NEXT_TURN = r"^(?:Human|User|Assistant|AI|### ?(?:Instruction|Response|Input)) ?:"
NEXT_TURN_MARKS = ("Human", "User", "Assistant", "AI:", "AI :", "###")
# Words of placeholders in capitals: others are names, such as [NASA], or marks, such as [NOTE].
_SLOT_WORDS = (
    r"(?:(?:FIRST|LAST|FULL|USER|COMPANY|BUSINESS|BRAND|PRODUCT|FILE)?NAMES?|YOUR|INSERT|ENTER|FILL"
    r"|HERE|PLACEHOLDER|REDACTED|TODO|TBD|X{3,}|DATE|TIME|YEAR|MONTH|DAY|AGE|NUMBER|AMOUNT|PRICE"
    r"|COMPANY|ORGANI[SZ]ATION|CUSTOMER|CLIENT|USER|PERSON|RECIPIENT|SENDER|SIGNATURE|TITLE|POSITION"
    r"|ADDRESS|STREET|CITY|COUNTRY|LOCATION|ZIP|PHONE|TELEPHONE|E?MAIL|URL|LINK|WEBSITE|PASSWORD"
    r"|PRODUCT|BRAND|TOPIC)"
)
SLOTS = (
    r"[{\[](?:(?<=\{)(?:\{ ?[A-Za-z][\w .-]{0,40} ?\}\}"
    # Not in code: ${name}, \name{...}, {"a": ...}, f"{name}", {a}{b}, paths, and awk's {print}.
    r"|(?<![\w$\\{}\"'(\[=:%/]\{)(?!(?:print|next|exit)\})[a-z]+(?:_[a-z]+)*\}(?![}\"'\])/]))"
    rf"|(?<=\[)(?:(?:[A-Z]+[_ ]){{0,4}}{_SLOT_WORDS}(?:[_ ][A-Z]+){{0,4}}\]"
    r"|(?:Your|Insert|Company|Customer|Recipient)\b[^\]\n]{0,40}\]))"
)
REFUSAL = (
    r"\bas an? (?:ai|artificial intelligence)(?: language)? (?:model|assistant)\b"
    r"|\bas a (?:large )?language model\b|\bi['’]m (?:just )?an ai\b"
    r"|\bi(?:['’]m| am) sorry, (?:but )?i (?:can['’]?t|cannot|am unable to) "
    r"(?:assist|help|fulfill|comply|provide|do that)\b"
    r"|\bi (?:cannot|can['’]t) fulfill (?:this|that|your) request\b"
)
REFUSAL_MARKS = (" AI", " ai ", "anguage model", "sorry", "ulfill")


# Marks of direction are usual in Hebrew and Arabic; joiners in Indic scripts and emoji.
_HIDDEN_RANGES = (
    *((0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0x7F), (0xAD, 0xAD), (0x200B, 0x200B)),
    *((0x2028, 0x2029), (0x202A, 0x202E), (0x2060, 0x2064), (0x2066, 0x2069), (0xFEFF, 0xFEFF)),
    *((0xFFF9, 0xFFFB), (0xE0000, 0xE007F)),
)
HIDDEN = tuple(chr(code) for first, last in _HIDDEN_RANGES for code in range(first, last + 1))
"""Characters that are not shown, or change the order of others."""
MISREAD = tuple("ÂÃÄÅâÐÑ\x80\x81\x82\x83\x84\ufffd") + tuple(map(chr, range(0x86, 0xA0)))
"""First characters of UTF-8 that was read as Latin-1 or Windows-1252."""


def _find_hidden() -> Find:
    """Return a function that finds the first hidden character."""
    pattern = re.compile(f"[{re.escape(''.join(HIDDEN))}]")

    def find(row: Row) -> str | None:
        match = pattern.search(row.text)
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
        match = pattern.search(row.text)
        return around(row.text, match) if match else None

    return find


TEXT_FAULTS = (
    Detector(
        "rows have control tokens of a chat template in their text",
        search(CONTROL_TOKENS, flags=re.MULTILINE),
        "remove them; the chat template writes its own",
        can_be_intended=False,
        marks=("<", "INST]"),
    ),
    Detector(
        "answers go on with the next turn of a conversation",
        search(NEXT_TURN, in_answer=True, flags=re.MULTILINE),
        "make a message of each turn",
        marks=NEXT_TURN_MARKS,
    ),
    Detector(
        "rows have invisible or control characters",
        _find_hidden(),
        "remove them; nobody sees them, and the model reads them",
        marks=HIDDEN,
    ),
    Detector(
        "rows have characters that were read in the wrong encoding",
        _misread_utf8(),
        "read the original as UTF-8",
        can_be_intended=False,
        marks=MISREAD,
    ),
    Detector(
        "rows have placeholders that nothing replaced",
        search(SLOTS),
        "fill them in, or leave the rows out",
        marks=("{", "["),
    ),
    Detector(
        "rows have HTML comments or entities",
        search(r"[<&](?:(?<=<)!--|(?<=&)(?:amp|lt|gt|quot|nbsp|#39|#x27);)"),
        "convert them to text",
        marks=("<!--", "&"),
    ),
    Detector(
        "answers speak as an AI or refuse with a stock phrase",
        search(REFUSAL, in_answer=True, flags=re.IGNORECASE),
        "leave them out, unless the model shall refuse",
        marks=REFUSAL_MARKS,
    ),
)
