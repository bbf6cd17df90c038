"""Find leftovers of templates, web pages or programs in texts, and broken characters."""

from __future__ import annotations

import re

from tunesmith.text import safe_text
from tunesmith_plugins.checks.rows.detectors import Detector, FindFault, make_search, quote_around
from tunesmith_plugins.checks.rows.row import Row

# Where possible, a pattern starts with a set of characters, so the search can skip all others
# quickly.
CONTROL_TOKENS = (
    r"[<\[](?:(?<=<)(?:[|｜][A-Za-z][^<>|｜\n]{1,40}[|｜]>|</?SYS>>|(?:start|end)_of_turn>"
    r"|(?:bos|eos|pad|unk)>|s>(?<=^<s>)|/s>$)|(?<=\[)/?INST\])"
)
NEXT_TURN = r"^(?:Human|User|Assistant|AI|### ?(?:Instruction|Response|Input)) ?:"
NEXT_TURN_MARKS = ("Human", "User", "Assistant", "AI:", "AI :", "###")
# Words in placeholders such as [YOUR NAME]. Other capitals may be names ([NASA]) or labels
# ([NOTE]).
_SLOT_WORDS = (
    r"(?:(?:FIRST|LAST|FULL|USER|COMPANY|BUSINESS|BRAND|PRODUCT|FILE)?NAMES?|YOUR|INSERT|ENTER|FILL"
    r"|HERE|PLACEHOLDER|REDACTED|TODO|TBD|X{3,}|DATE|TIME|YEAR|MONTH|DAY|AGE|NUMBER|AMOUNT|PRICE"
    r"|COMPANY|ORGANI[SZ]ATION|CUSTOMER|CLIENT|USER|PERSON|RECIPIENT|SENDER|SIGNATURE|TITLE|POSITION"
    r"|ADDRESS|STREET|CITY|COUNTRY|LOCATION|ZIP|PHONE|TELEPHONE|E?MAIL|URL|LINK|WEBSITE|PASSWORD"
    r"|PRODUCT|BRAND|TOPIC)"
)
SLOTS = (
    r"[{\[](?:(?<=\{)(?:\{ ?[A-Za-z][\w .-]{0,40} ?\}\}"
    # Code is not matched: ${name}, \name{...}, {"a": ...}, f"{name}", {a}{b}, paths, awk's {print}.
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


# Directional marks (Hebrew, Arabic) and joiners (Indic scripts, emoji) are normal, so they are not
# listed.
_HIDDEN_RANGES = (
    *((0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0x7F), (0xAD, 0xAD), (0x200B, 0x200B)),
    *((0x2028, 0x2029), (0x202A, 0x202E), (0x2060, 0x2064), (0x2066, 0x2069), (0xFEFF, 0xFEFF)),
    *((0xFFF9, 0xFFFB), (0xE0000, 0xE007F)),
)
HIDDEN = tuple(chr(code) for first, last in _HIDDEN_RANGES for code in range(first, last + 1))
"""Characters that are invisible or change the display order of other characters."""
MISREAD = tuple("ÂÃÄÅâÐÑ\x80\x81\x82\x83\x84\ufffd") + tuple(map(chr, range(0x86, 0xA0)))
"""Characters that a UTF-8 sequence starts with if it is read as Latin-1 or Windows-1252."""


def _find_hidden() -> FindFault:
    """Return a function that finds the first hidden character."""
    pattern = re.compile(f"[{re.escape(''.join(HIDDEN))}]")

    def find(row: Row) -> str | None:
        match = pattern.search(row.text)
        return safe_text(quote_around(row.text, match)) if match else None

    return find


def _misread_utf8() -> FindFault:
    """Return a function that finds UTF-8 text decoded as Latin-1 or Windows-1252."""
    second_bytes = bytes(range(0x80, 0xC0))
    characters = second_bytes.decode("cp1252", "ignore") + second_bytes.decode("latin-1")
    # A quotation mark after such a letter can be intended, as in German »Ä«.
    second = f"(?![«»“”‘’‹›„‚])[{re.escape(characters)}]"
    # The set comes first and the look-behinds second, so the search can skip other characters.
    pattern = re.compile(
        "[ÂÃÄÅâÐÑ\x80-\x84\x86-\x9f\ufffd](?:"
        f"(?<=[ÂÃÄÅ]){second}|(?<=â)(?:[€\x80][{re.escape(characters)}]|[„\x84‚\x82]{second})"
        f"|(?<=[ÐÑ]){second}[ÐÑ]{second}|(?<=[\x80-\x9f\ufffd]))"
    )

    def find(row: Row) -> str | None:
        match = pattern.search(row.text)
        return quote_around(row.text, match) if match else None

    return find


TEXT_FAULTS = (
    Detector(
        "rows contain control tokens of a chat template",
        make_search(CONTROL_TOKENS, flags=re.MULTILINE),
        "remove them: the chat template adds its own",
        can_be_intended=False,
        marks=("<", "INST]"),
    ),
    Detector(
        "answers continue with the next turn of the conversation",
        make_search(NEXT_TURN, in_answer=True, flags=re.MULTILINE),
        "make each turn a separate message",
        marks=NEXT_TURN_MARKS,
    ),
    Detector(
        "rows contain invisible or control characters",
        _find_hidden(),
        "remove these characters: people do not see them, but the model does",
        marks=HIDDEN,
    ),
    Detector(
        "rows contain characters decoded with the wrong encoding",
        _misread_utf8(),
        "read the original file as UTF-8",
        can_be_intended=False,
        marks=MISREAD,
    ),
    Detector(
        "rows contain unfilled placeholders",
        make_search(SLOTS),
        "fill them in, or remove these rows; placeholders from `tunesmith data fix --mask` are "
        "fine",
        marks=("{", "["),
    ),
    Detector(
        "rows contain HTML comments or entities",
        make_search(r"[<&](?:(?<=<)!--|(?<=&)(?:amp|lt|gt|quot|nbsp|#39|#x27);)"),
        "convert them to plain text",
        marks=("<!--", "&"),
    ),
    Detector(
        "answers speak as an AI or refuse with a stock phrase",
        make_search(REFUSAL, in_answer=True, flags=re.IGNORECASE),
        "remove these rows, unless the model should refuse",
        marks=REFUSAL_MARKS,
    ),
)
