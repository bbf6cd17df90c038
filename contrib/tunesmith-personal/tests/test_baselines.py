"""The baselines of a user are built from the user's own rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from people import INTENTS, make_records, make_rows

from tunesmith.contracts import Generation
from tunesmith.records import Message, Prompt, prompt_text
from tunesmith_evidence.tasks.examples import read_examples
from tunesmith_personal.baselines import UserBaselines


class Model:
    """A model that remembers its prompts; its hidden states tell the intents apart."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.embedded = 0

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, **options: Any
    ) -> list[Generation]:
        self.prompts += prompts
        return [Generation("x", 1, "stop") for _ in prompts]

    def embed(self, texts: Sequence[str], **options: Any) -> Any:
        self.embedded += len(texts)
        rows = [[float(intent in text) for intent in INTENTS] for text in texts]
        return np.array(rows) + 0.01


def build(name: Any, user: str = "user-01") -> tuple[Model, Model, Any]:
    shared, base = Model(), Model()
    train = make_records([row for row in make_rows(3, 20) if row["user"] == user])
    typed: Any = (shared, base)
    return shared, base, UserBaselines(*typed).build(name, read_examples(train), 4)


ASKED = [(Message("user", "parking 99 user"),)]


def test_retrieved_rows_are_the_users_own_and_similar() -> None:
    own = {row["completion"] for row in make_rows(3, 20) if row["user"] == "user-01"}
    others = {row["completion"] for row in make_rows(3, 20) if row["user"] != "user-01"} - own
    for name, number in (("shared-retrieval", 0), ("base-retrieval", 1)):
        *models, model = build(name)
        model.generate(ASKED, 8)
        (prompt,) = models[number].prompts
        text = prompt_text(prompt)
        assert text.count("parking") >= 4 and any(answer in text for answer in own)
        assert not any(answer in text for answer in others)
        assert not models[1 - number].prompts


def test_the_classifier_learns_the_users_answers() -> None:
    _, base, model = build("classifier")
    rows = [r for r in make_rows(3, 20) if r["user"] == "user-01"]
    expected = next(row["completion"] for row in rows if "parking" in row["prompt"])
    assert not base.embedded, "it learns in the thread that asks"
    assert model.generate(ASKED, 8)[0].text == expected
    before = base.embedded
    model.generate(ASKED, 8)
    assert base.embedded == before + 1, "it learns once"


def test_without_rows_a_user_gets_the_shared_adapter() -> None:
    shared, _, model = build("classifier", user="nobody")
    assert model is shared
