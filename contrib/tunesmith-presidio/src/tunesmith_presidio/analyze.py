"""Find personal data with Presidio over a tokenizer of spaCy, without a language model.

Presidio's recognizers read the form, the check digits and the words before a value. They are joined
by those of tunesmith, which know dates of birth, record numbers and more national ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import spacy
import tldextract
from presidio_analyzer import (
    AnalyzerEngine,
    EntityRecognizer,
    LocalRecognizer,
    RecognizerRegistry,
    RecognizerResult,
)
from presidio_analyzer import predefined_recognizers as presidio
from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
from presidio_analyzer.nlp_engine import NlpArtifacts, SlimSpacyNlpEngine

from tunesmith_data import personal_data
from tunesmith_data.personal_data import PersonalData, Span

__all__ = ["KINDS", "find_spans", "make_analyzer"]

LANGUAGE = "en"
"""Presidio's name for all texts: the recognizers do not depend on the language."""
MIN_SCORE = 0.4
"""The score of a telephone number that no word names."""
_OWN_SCORE = 0.9
_RECOGNIZERS: dict[str, tuple[type[EntityRecognizer], ...]] = {
    "IBAN": (presidio.IbanRecognizer,),
    "CARD": (presidio.CreditCardRecognizer,),
    "SSN": (presidio.UsSsnRecognizer,),
    "ID": (
        presidio.AuMedicareRecognizer,
        presidio.AuTfnRecognizer,
        presidio.DeTaxIdRecognizer,
        presidio.EsNieRecognizer,
        presidio.EsNifRecognizer,
        presidio.FiPersonalIdentityCodeRecognizer,
        presidio.InAadhaarRecognizer,
        presidio.InPanRecognizer,
        presidio.ItFiscalCodeRecognizer,
        presidio.KrRrnRecognizer,
        presidio.NhsRecognizer,
        presidio.PlPeselRecognizer,
        presidio.SePersonnummerRecognizer,
        presidio.SgFinRecognizer,
        presidio.ThTninRecognizer,
        presidio.TrNationalIdRecognizer,
        presidio.UkNinoRecognizer,
        presidio.UsItinRecognizer,
    ),
    "PASSPORT": (presidio.UsPassportRecognizer, presidio.UkPassportRecognizer),
    "MEDICAL LICENSE": (presidio.MedicalLicenseRecognizer,),
    "WALLET": (presidio.CryptoRecognizer,),
    "IP ADDRESS": (presidio.IpRecognizer,),
    "MAC ADDRESS": (presidio.MacAddressRecognizer,),
}
"""Presidio's recognizers by placeholder, apart from those for e-mail addresses and telephones."""
PHONE_WORDS = [
    *("phone", "telephone", "cellphone", "mobile", "call", "tel", "fax", "sms", "whatsapp"),
    *("telefon", "handy", "mobil", "anrufen", "téléphone", "teléfono", "telefono", "telefone"),
]
"""Words that name a telephone number. Presidio's own list has "number", which names many things."""
_AMBIGUOUS = ("ID", "PHONE")
"""Kinds with a value that can be digits alone."""
KINDS = {
    **{kind.placeholder: kind.what for kind in personal_data.KINDS},
    "PASSPORT": "a passport number",
    "MEDICAL LICENSE": "a number of a medical license",
    "WALLET": "an address of a cryptocurrency wallet",
    "IP ADDRESS": "an IP address",
    "MAC ADDRESS": "a MAC address",
}
"""Kinds of personal data as noun phrases, by placeholder."""


class BlankEngine(SlimSpacyNlpEngine):  # type: ignore[misc]
    """Splits text into words with spaCy; the lemma of a word is the word in lower case."""

    def load(self) -> None:
        """Create the tokenizer; nothing is downloaded."""
        tokenizer = spacy.blank(LANGUAGE)
        tokenizer.max_length = 1 << 40  # the limit is meant for parsers
        self.nlp = {LANGUAGE: tokenizer}

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        """Return the words of a text, without entities."""
        words = self.nlp[language](text)
        starts, lemmas = [word.idx for word in words], [word.lower_ for word in words]
        return NlpArtifacts([], words, starts, lemmas, self, language)


class OfflineEmailRecognizer(presidio.EmailRecognizer):  # type: ignore[misc]
    """Recognizes e-mail addresses by the list of suffixes that is installed.

    The parent downloads the list.
    """

    _extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    def validate_result(self, pattern_text: str) -> bool:
        """Return True if the domain has a known suffix."""
        return bool(self._extract(pattern_text).fqdn)


class KindRecognizer(LocalRecognizer):  # type: ignore[misc]
    """Recognizes a kind of personal data as ``tunesmith data fix --mask`` does."""

    def __init__(self, number: int, kind: PersonalData) -> None:
        super().__init__([kind.placeholder], name=f"tunesmith {number}")
        self._kind = kind

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def analyze(
        self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts | None = None
    ) -> list[RecognizerResult]:
        """Return the values of this kind in a text."""
        (name,) = self.supported_entities
        return [
            RecognizerResult(name, match.start(), match.end(), _OWN_SCORE)
            for match in self._kind.find(text)
        ]


def make_analyzer(kinds: Sequence[PersonalData] = personal_data.KINDS) -> AnalyzerEngine:
    """Return Presidio's analyzer with its recognizers, and with those of tunesmith."""
    # Presidio keeps one of the results that have the same place and the same name of an entity,
    # and it may drop the one whose word was found. So each recognizer has its own name.
    recognizers: list[Any] = [
        recognizer(
            supported_entity=f"{placeholder}/{recognizer.__name__}", supported_language=LANGUAGE
        )
        for placeholder, recognizers in _RECOGNIZERS.items()
        for recognizer in recognizers
    ]
    recognizers += [
        OfflineEmailRecognizer(supported_entity="EMAIL"),
        presidio.PhoneRecognizer(supported_entity="PHONE", context=PHONE_WORDS),
    ]
    recognizers += [KindRecognizer(number, kind) for number, kind in enumerate(kinds)]
    return AnalyzerEngine(
        RecognizerRegistry(recognizers),
        BlankEngine(),
        default_score_threshold=MIN_SCORE,
        context_aware_enhancer=LemmaContextAwareEnhancer(context_matching_mode="whole_word"),
    )


_shared_analyzer = cache(make_analyzer)


def find_spans(text: str, analyzer: AnalyzerEngine | None = None) -> list[Span]:
    """Return the personal data in a text, in order and without overlaps.

    Values that overlap are one value, whose kind is that of the highest score.
    """
    found = (analyzer or _shared_analyzer()).analyze(text, LANGUAGE, return_decision_process=True)
    known = sorted((r for r in found if _is_value(r, text)), key=lambda result: result.start)
    return [*_join(known)]


def _is_value(result: RecognizerResult, text: str) -> bool:
    """Return True unless a result is part of a longer word, or digits that nothing names.

    A check digit alone is not enough: every tenth number has it.
    """
    kind = _read_placeholder(result)
    around = text[max(0, result.start - 1) : result.start] + text[result.end : result.end + 1]
    if any(character.isalnum() for character in around):
        return False
    explanation = result.analysis_explanation
    is_digits = kind in _AMBIGUOUS and text[result.start : result.end].isdigit()
    return not is_digits or explanation is None or bool(explanation.supportive_context_word)


def _read_placeholder(result: RecognizerResult) -> str:
    return str(result.entity_type).partition("/")[0]


def _join(results: Sequence[RecognizerResult]) -> Iterator[Span]:
    group: list[RecognizerResult] = []
    for result in [*results, None]:
        end = max((r.end for r in group), default=0)
        if group and (result is None or result.start >= end):
            best = max(group, key=lambda r: r.score)
            yield Span(group[0].start, end, _read_placeholder(best))
            group = []
        group.append(result)
