"""Simulated help desk requests, and seven changes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WORDS = {
    "heating": "radiator boiler thermostat cold heating valve warm leaking",
    "network": "internet router wifi cable slow connection offline signal",
    "payroll": "salary payslip bonus overtime payment missing tax bank",
    "printer": "printer toner paper jam scanner driver tray ink",
    "travel": "flight hotel train booking refund trip visa ticket",
    "account": "password login account locked reset email username code",
    "cleaning": "kitchen cleaning bins floor window dust trash smell",
    "meeting": "calendar meeting room projector invite screen schedule chair",
}
NEW = "parking garage badge barrier car space permit charger"
FORMS = (
    "The {0} in room {n} is broken: {1} {2}",
    "Please help me with {0} and {1}, it is about the {2}",
    "Since {n} days my {0} has a problem with the {1}",
    "Who is responsible for the {0}? I asked about {1} before",
    "{0} does not work, {1} neither. Ticket {n}",
)
FRENCH = "Bonjour, le problème avec {0} dure depuis {n} jours, pouvez-vous m'aider avec {1}"
PREFIX = "[Forwarded by assistant v2] Category: unknown. User request follows: "
POLITE = (
    "Good morning, I hope you are well and I am sorry to bother you again with this, but I have "
    "already asked two colleagues and nobody could tell me what to do about the following. "
)


@dataclass(frozen=True)
class Pool:
    """Requests to draw from, each with the calibrated confidence of the model's answer."""

    texts: Sequence[str]
    confidence: np.ndarray


def make_pool(
    rng: np.random.Generator,
    count: int,
    *,
    intents: Sequence[float] = (1,) * len(WORDS),
    change: Callable[[str, np.random.Generator], str] = lambda text, rng: text,
    confidence: tuple[float, float] = (9.0, 1.0),
) -> Pool:
    """Make requests with these weights of the intents."""
    lists = [words.split() for words in WORDS.values()]
    shares = np.array(intents, float) / sum(intents)
    texts = []
    for intent in rng.choice(len(lists), count, p=shares):
        words = rng.choice(lists[intent], 3, replace=False)
        form = FORMS[rng.integers(len(FORMS))]
        texts.append(change(form.format(*words, n=rng.integers(1, 400)), rng))
    return Pool(texts, rng.beta(*confidence, count))


def sometimes(share: float, other: Callable[[str, np.random.Generator], str]) -> Callable[..., str]:
    """Return a change of this share of the requests."""
    return lambda text, rng: other(text, rng) if rng.random() < share else text


def new_intent(text: str, rng: np.random.Generator) -> str:
    words = rng.choice(NEW.split(), 3, replace=False)
    return FORMS[rng.integers(len(FORMS))].format(*words, n=rng.integers(1, 400))


def in_french(text: str, rng: np.random.Generator) -> str:
    words = rng.choice(
        ["chauffage", "imprimante", "réseau", "salaire", "voyage", "cuisine"], 2, False
    )
    return FRENCH.format(*words, n=rng.integers(1, 400))


def typed_on_a_phone(text: str, rng: np.random.Generator) -> str:
    letters = [c for c in text.lower().replace(",", "").replace(".", "") if rng.random() > 0.04]
    return "".join(letters)


CHANGES: dict[str, dict[str, object]] = {
    "new intent (20 %)": {"change": sometimes(0.2, new_intent), "confidence": (6.0, 1.2)},
    "new language (10 %)": {"change": sometimes(0.1, in_french), "confidence": (7.0, 1.1)},
    "longer texts (30 %)": {"change": sometimes(0.3, lambda text, rng: POLITE + text)},
    "label shift (two intents x4)": {"intents": (4, 4, 1, 1, 1, 1, 1, 1)},
    "typing style (40 %)": {"change": sometimes(0.4, typed_on_a_phone), "confidence": (7.0, 1.1)},
    "upstream template": {"change": lambda text, rng: PREFIX + text, "confidence": (6.0, 1.2)},
    "changed answer convention": {},
}
"""Arguments of :func:`make_pool` after each change."""
RIGHT_AFTER = {"changed answer convention": 0.7}
"""Factor of the share of right answers, where the confidence does not show it."""
