"""Identify the language of texts with py3langid, which knows 130 languages and works offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from tunesmith_data import require_library

READ_CHARACTERS = 1_000
FEWEST_BYTES = 20
"""UTF-8 bytes of letters below which a text is too short to tell."""
CONFIDENCE = 0.8
"""Probability of a language from which on it counts."""
ODDS = 500
"""How much more probable than another language the language of a text has to be to rule it out."""
NO_LANGUAGE = "zxx"
"""Code of ISO 639 for content that is no language, such as numbers."""


def identify_language(text: str) -> str:
    """Return the ISO 639 code of the language of a text; empty if it is not recognized.

    Code, tables and texts of a few words have none.

    Raises:
        EnvironmentProblem: py3langid is not installed.
    """
    return next(iter(identify_languages(text)), "")


def identify_languages(text: str) -> tuple[str, ...]:
    """Return the codes of the languages that a text could be in, the most probable first.

    There are none if the most probable one is not recognized. A short text may look like a related
    language, as English does like Nigerian Pidgin: only much less probable ones are ruled out.

    Raises:
        EnvironmentProblem: py3langid is not installed.
    """
    start = text[:READ_CHARACTERS]
    letters = "".join(filter(str.isalpha, start))
    if len(letters.encode("utf-8", "surrogatepass")) < FEWEST_BYTES:
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
