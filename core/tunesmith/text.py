"""Prepare text for users: escape unsafe characters, redact secrets, format numbers.

All untrusted text (rows, file names, plugin names, model output) passes through `safe_text`
before it is printed, and through `redact` before it is stored. Both return plain strings: a
renderer must not interpret markup in them. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

ELLIPSIS = "…"


def _escape(character: str) -> str:
    """Return the Python escape of a character: `\\x1b`, `\\u202e` or `\\U000e0041`."""
    point = ord(character)
    if point <= 0xFF:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"


_ALWAYS = (
    *(c for c in range(0x20) if c not in (0x09, 0x0A)),  # control characters, not tab and newline
    *range(0x7F, 0xA0),  # DEL, C1
    0x00AD,  # soft hyphen
    0x034F,  # combining grapheme joiner
    0x061C,  # Arabic letter mark (bidi)
    *(0x115F, 0x1160, 0x3164, 0xFFA0),  # Hangul fillers: invisible letters
    *(0x180E, 0x200B, 0xFEFF),  # zero-width spaces
    *(0x200E, 0x200F),  # bidi marks
    *range(0x2028, 0x202F),  # line and paragraph separators, bidi embeddings and overrides
    *range(0x2060, 0x2070),  # word joiner, invisible operators, bidi isolates
    *range(0xFFF9, 0xFFFC),  # interlinear annotations
    *range(0xD800, 0xE000),  # lone surrogates (in Python, a surrogate is always alone)
    *range(0xE0000, 0xE1000),  # tags, variation selectors and other invisible characters
)


@cache
def _table() -> dict[int, str]:
    """Return the escapes of unsafe characters. Making them takes as long as an import."""
    return {point: _escape(chr(point)) for point in _ALWAYS}


_EMOJI = "\u00a9\u00ae\u2190-\u27bf\u2900-\u2bff\u3030-\u3299\U0001f000-\U0001faff"
_JOINING = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af"  # Arabic, Indic, Khmer, Mongol
# Joiners are part of emoji, Persian and Hindi; anywhere else they can only hide text. A variation
# selector must follow a character that is not a selector.
_MAYBE = "[\u200c\u200d\ufe00-\ufe0f]"
_MISPLACED = (
    "[\u200c\u200d](?!"
    f"(?<=[{_EMOJI}]\u200d)[{_EMOJI}]|(?<=[{_EMOJI}]\ufe0f\u200d)[{_EMOJI}]"
    f"|(?<=[{_JOINING}][\u200c\u200d])[{_JOINING}\\s])[\u200c\u200d]*"
    "|[\ufe00-\ufe0f](?:(?<=[\ufe00-\ufe0f]{2})|(?<![\\s\\S][\ufe00-\ufe0f]))[\ufe00-\ufe0f]*"
)


def _escape_run(match: re.Match[str]) -> str:
    run = match.group()
    shown = {character: _escape(character) for character in set(run)}
    return "".join(map(shown.__getitem__, run))


def safe_text(s: str, limit: int | None = None) -> str:
    """Escape the characters of a string that could manipulate a terminal or deceive a reader.

    Control characters except tab and newline, bidirectional controls, invisible characters, tags
    and lone surrogates become visible escapes such as `\\x1b`. Ordinary text is kept, including
    emoji and joined scripts. With `limit`, the result has at most that many characters, and ends
    with an ellipsis if it was cut. The function is idempotent.
    """
    if limit is None:
        return _escape_unsafe(s)
    if limit < 1:
        raise ValueError(f"limit: must be at least 1, got {limit}")
    # Escaping never shortens the text, so characters beyond the limit are not needed.
    result = _escape_unsafe(s[: limit + 1])
    if len(result) <= limit:
        return result
    # A joiner at the cut would be misplaced: it needs the character that follows it.
    return result[: limit - 1].rstrip("\u200c\u200d") + ELLIPSIS


def _escape_unsafe(s: str) -> str:
    if s.isascii() and s.isprintable():
        return s
    if not s.isascii() and re.search(_MAYBE, s):
        s = re.sub(_MISPLACED, _escape_run, s)
    return s.translate(_table())


def one_line(s: str, limit: int = 80) -> str:
    """Return `safe_text` on one line of at most `limit` characters, with white space collapsed."""
    # Limit the work: only the start of a very long line is needed.
    head = s[: limit * 64 + 64]
    cut = len(head) < len(s)
    line = safe_text(" ".join(re.split(r"[ \t\n\r\f\v\u2028\u2029]+", head)).strip(" "))
    if cut or len(line) > limit:
        return safe_text(line + ELLIPSIS * cut, limit=limit)
    return line


def format_bytes(n: int) -> str:
    """Format a size in powers of 1024, like tools for memory and disks: "1.3 GiB"."""
    units = ("KiB", "MiB", "GiB", "TiB", "PiB")
    sign, size = ("-" if n < 0 else ""), abs(n)
    if size < 1024:
        return f"{sign}{size} B"
    amount, power = size / 1024, 0
    while round(amount, 1) >= 1024 and power < len(units) - 1:
        amount, power = amount / 1024, power + 1
    return f"{sign}{amount:,.1f} {units[power]}"


def format_duration(seconds: float) -> str:
    """Format a duration: "0.42 s", "4.2 s", "42 s", "2 min 05 s", "3 h 07 min", "2 d 03 h"."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 0:
        return "-" + format_duration(-seconds)
    for below, digits in ((1, 2), (10, 1), (60, 0)):
        if round(seconds, digits) < below:
            return f"{seconds:.{digits}f} s"
    rounded = round(seconds)
    if rounded < 3_600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 1_440:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3_600)
    return f"{hours // 24} d {hours % 24:02d} h"


def format_count(n: int, noun: str) -> str:
    """Format a count with its noun: "1 row", "1,234 rows", "2 batches", "0 entries"."""
    if abs(n) == 1:
        return f"{n} {noun}"
    if re.search(r"[^aeiou]y$", noun):
        return f"{n:,} {noun[:-1]}ies"
    return f"{n:,} {noun}{'es' if re.search(r'(s|x|z|ch|sh)$', noun) else 's'}"


def suggest_name(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, or None.

    Case, hyphens and underscores are ignored. An unambiguous prefix of at least two letters is
    preferred to the most similar name.
    """
    names = {_normalize(name): name for name in sorted(set(known), reverse=True)}
    normalized = _normalize(word)
    if not normalized or word in names.values():
        return None
    prefixed = [name for name in names if name.startswith(normalized)]
    if normalized not in names and len(prefixed) == 1 and len(normalized) >= 2:
        return names[prefixed[0]]
    from difflib import get_close_matches  # not needed for `--help`

    close = get_close_matches(normalized, names, n=1, cutoff=0.61)
    return names[close[0]] if close else None


def _normalize(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "").strip()[:200]


# --- secrets --------------------------------------------------------------------------------

# Do not match inside a longer word. An escape (`\n`, the end of a color code, `%3D`) ends a word.
_START = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt])|(?<=[0-9]m)|(?<=%[0-9A-Fa-f]{2}))"
_RULES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "private_key",
        ("PRIVATE",),
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?s:.*?)(?:-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    ("hf_token", ("hf_", "api_org_"), _START + r"(?:hf_|api_org_)[A-Za-z0-9]{20,}"),
    ("anthropic_key", ("sk-ant-",), _START + r"sk-ant-[A-Za-z0-9_-]{16,}"),
    (
        "openai_key",
        ("sk-",),
        _START + r"sk-(?:(?:proj|svcacct|admin|or)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{20,})",
    ),
    ("stripe_key", ("k_live_", "k_test_"), _START + r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("aws_key", ("AKIA", "ASIA"), _START + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("gcp_key", ("AIza",), _START + r"AIza[A-Za-z0-9_-]{35}"),
    (
        "github_token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        _START + r"(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})",
    ),
    ("gitlab_token", ("glpat-",), _START + r"glpat-[A-Za-z0-9_-]{20,}"),
    ("slack_token", ("xox", "xapp-"), _START + r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}"),
    ("npm_token", ("npm_",), _START + r"npm_[A-Za-z0-9]{36}"),
    ("pypi_token", ("pypi-",), _START + r"pypi-[A-Za-z0-9_-]{50,}"),
    ("jwt", ("eyJ",), _START + r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}"),
    ("bearer", ("earer",), r"(?P<keep>\b[Bb]earer )(?!\[redacted:)[A-Za-z0-9._~+/=-]{20,}"),
    ("password", ("://",), r"(?P<keep>://[^\s/:@]{0,256}:)(?!\[redacted:)[^\s/\"'<>]{1,256}(?=@)"),
    (
        "secret",
        ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "_KEY", "secret_access_key"),
        r"(?P<keep>(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|secret_access_key)"
        r"(?:\s{0,3}=|[\"']\s{0,3}:)\s{0,3}[\"']?)(?!\[redacted:)[^\s\"',;<>]{8,}",
    ),
)
"""Rules: the kind of secret, a list of literals (at least one must occur), and the pattern. Text in
the pattern's group "keep" stays; the rest of the match is replaced."""

SECRET_MARKS = tuple(mark for _, marks, _ in _RULES for mark in marks)
"""Every text that `redact` changes contains at least one of these marks."""


def redact(s: str) -> str:
    """Replace secrets with `[redacted:KIND]` in text that is logged, stored or shown.

    Secrets are recognized by their form (tokens of model hubs, clouds and forges, JSON web tokens,
    private keys), by their position (a password in a URL, a token after "Bearer") and by the name
    that they are assigned to (`WANDB_API_KEY=`). Secrets of unknown form are not recognized.
    """
    for kind, marks, pattern in _RULES:
        if any(mark in s for mark in marks):
            s = re.sub(pattern, _replacement(kind), s)
    return s


_EMAIL = r"(?<![\w.+-])(\w)[\w.+-]*(@[\w-]+\.[\w.-]*\w)"
_LONG_NUMBER = r"(?<!\w)(?:[A-Z]{2})?\d(?:[ -]?[\dA-Z]){10,32}\d(?!\w)|\b\d{3}-\d\d-\d{4}\b"


def mask_personal_data(s: str) -> str:
    """Redact secrets; mask e-mail addresses and long numbers such as card numbers."""
    s = re.sub(_EMAIL, r"\1…\2", redact(s))
    return re.sub(_LONG_NUMBER, lambda found: f"{found[0][:2]}…{found[0][-2:]}", s)


def mask_excerpt(s: str) -> str:
    """Return the start of a text in one line, with personal data masked."""
    # Mask before cutting: half an address or number would not be recognized.
    return one_line(mask_personal_data(s[:4_000]), 60)


def redact_all(value: Any) -> Any:
    """Return a JSON value with every string in it, including keys, passed through `redact`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact_all(key): redact_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item) for item in value]
    return value


def _replacement(kind: str) -> Callable[[re.Match[str]], str]:
    return lambda match: (match.groupdict().get("keep") or "") + f"[redacted:{kind}]"
