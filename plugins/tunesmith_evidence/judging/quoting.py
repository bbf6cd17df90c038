"""Quote answers for a judge so that they are read as data, and detect prompt injections."""

from __future__ import annotations

import hashlib
import re

__all__ = ["choose_mark", "quote_text"]

MAX_CHARACTERS = 6_000
"""Longer texts are truncated to this many characters."""
_TEMPLATE_TOKENS = re.compile(
    r"<\|[^|<>]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|</?(?:start|end)_of_turn>|</?think>"
    r"|<(?:start|end)_of_turn>"
)
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\U000e0000-\U000e007f]"
)
_ATTEMPTS = re.compile(
    r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instructions?|above|previous|prior|rules?)\b"
    r"|\b(?:answer|response|assistant|option)s? [ab]\b.{0,30}\b(?:is|are|wins?|deserves?)\b"
    r"|\b(?:choose|prefer|pick|select|vote for|reply with|output)\b.{0,20}"
    r"\b(?:me|this (?:answer|response)|[ab]|answer [ab])\b(?=\W*(?:$|\.|!|,|\n))"
    r"|\b(?:dear|attention|note to the) (?:judge|grader|evaluator)\b"
    r"|\byou are (?:now )?(?:the |a |an )?(?:judge|grader|evaluator)\b"
    r"|(?:^|\n)\W*(?:final )?(?:verdict|judg[e]?ment|winner) *[:=]"
    r"|(?:^|\n)\W*(?:system|assistant) *:"
    r"|\b(?:verdict|judge?ment|winner|assistant) *[:=] *\W?(?:a|b|tie)\W*(?:$|\n)",
    re.IGNORECASE | re.DOTALL,
)


def clean_text(text: str) -> str:
    """Return a text without chat-template tokens and invisible characters, truncated if long.

    Removing a token can form another one, so the removal is repeated until none is left.
    """
    text = _INVISIBLE.sub("", text[: 2 * MAX_CHARACTERS])
    while (shorter := _TEMPLATE_TOKENS.sub("", text)) != text:
        text = shorter
    return text[:MAX_CHARACTERS]


def is_injection_attempt(text: str) -> bool:
    """Return True for a text that seems to instruct the judge or contains template tokens."""
    visible = _INVISIBLE.sub("", text)
    return _TEMPLATE_TOKENS.search(visible) is not None or _ATTEMPTS.search(visible) is not None


def quote_text(name: str, text: str, mark: str) -> str:
    """Return the cleaned text between two delimiters that contain the mark."""
    return f"[{mark} {name}]\n{clean_text(text)}\n[{mark} end of {name}]"


def choose_mark(*texts: str) -> str:
    """Return a mark that no text can deliberately contain, because it is a hash of all texts.

    The same texts get the same mark, so that judgments are reproducible.
    """
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:".encode() + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:20]
