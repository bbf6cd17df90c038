"""Identify the language of texts with py3langid, which knows 130 languages and works offline."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tunesmith_data.files import require_library

READ_CHARACTERS = 1_000
FEWEST_BYTES = 20
"""UTF-8 bytes of letters below which a text is too short to tell."""
CONFIDENCE = 0.8
"""Probability of a language from which on it counts."""
NO_LANGUAGE = "zxx"
"""Code of ISO 639 for content that is no language, such as numbers."""


def identify_language(text: str) -> str:
    """Return the ISO 639 code of the language of a text; empty if it is not recognized.

    Code, tables and texts of a few words have none.

    Raises:
        EnvironmentProblem: py3langid is not installed.
    """
    start = text[:READ_CHARACTERS]
    letters = "".join(filter(str.isalpha, start))
    if len(letters.encode("utf-8", "surrogatepass")) < FEWEST_BYTES:
        return ""
    code, confidence = _classifier()(start)
    return code if confidence >= CONFIDENCE and code != NO_LANGUAGE else ""


@cache
def _classifier() -> Callable[[str], tuple[str, float]]:
    require_library("py3langid", "languages", extra="data")
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    classify: Callable[[str], tuple[str, float]] = identifier.classify
    return classify
