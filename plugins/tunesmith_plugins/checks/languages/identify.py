"""Identify the language of a text offline with py3langid, which knows 130 languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from tunesmith_data import require_library

MAX_CHARACTERS = 1_000
MIN_BYTES = 20
"""A text whose letters have fewer UTF-8 bytes is too short to identify."""
CONFIDENCE = 0.8
"""Minimum probability of the most probable language; below it, the language is unknown."""
ODDS = 500
"""A language is ruled out if the most probable one is at least this many times as probable."""
NO_LANGUAGE = "zxx"
"""ISO 639 code for content that has no language, such as numbers."""


def identify_language(text: str) -> str:
    """Return the ISO 639 code of the language of a text, or "" if it cannot be identified.

    Code, tables, and texts of a few words cannot be identified.

    Raises:
        EnvironmentProblem: py3langid is not installed.
    """
    return next(iter(identify_languages(text)), "")


def identify_languages(text: str) -> tuple[str, ...]:
    """Return the codes of the languages that a text may be in, the most probable first.

    The result is empty if no language can be identified. A short text can resemble a related
    language (English resembles Nigerian Pidgin, for example), so the result omits only much less
    probable languages.

    Raises:
        EnvironmentProblem: py3langid is not installed.
    """
    start = text[:MAX_CHARACTERS]
    letters = "".join(filter(str.isalpha, start))
    if len(letters.encode("utf-8", "surrogatepass")) < MIN_BYTES:
        return ()
    ranked = _ranker()(start)
    code, most = ranked[0]
    if most < CONFIDENCE or code == NO_LANGUAGE:
        return ()
    return tuple(code for code, probability in ranked if probability * ODDS > most)


@cache
def _ranker() -> Callable[[str], Sequence[tuple[str, float]]]:
    require_library("py3langid", "languages", extra="data")
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    rank: Callable[[str], Sequence[tuple[str, float]]] = identifier.rank
    return rank
