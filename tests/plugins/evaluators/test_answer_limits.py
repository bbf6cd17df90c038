"""What evaluators ask of a model is what their offers say, which a review of a run relies on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.contracts import Generation, RunContext, TokenScores
from tunesmith.offers import EvaluatorOffer
from tunesmith.options import from_table
from tunesmith.plugins import Selection, find_plugins
from tunesmith.records import Prompt, Record, last_exchange
from tunesmith.testing.evaluators import RECORD_SETS
from tunesmith.testing.fakes import FakeTextModel

OTHER_PROMPTS = {
    "canaries": "it scores secrets of its own",
    "constrained-match": "it scores labels",
    "forgetting": "it scores texts of its own",
    "general-loss": "it scores texts of its own",
    "general-skills": "it asks prompts of its own",
    "memorization": "it goes on with beginnings of rows, up to as many tokens as an option says",
    "review": "it needs the validation rows of a run",
    "safety": "it asks prompts of its own",
}
"""Evaluators that neither generate answers to the prompts nor score the references of all rows."""
NEEDED: dict[str, dict[str, Any]] = {
    "code": {"execute_generated_code": True},
    "judge": {"model": "m"},
    "win-rate": {"reward": "file.py:f"},
}
"""Options that have no default."""
OFFERS = {
    offered.offer.name: offered.offer
    for offered in Catalog(find_plugins(Selection(allowed=frozenset()))).offers(EvaluatorOffer)
}


class Asked(Exception):
    """The model was asked: the rest of the evaluator does not matter."""


@dataclass
class Asking(FakeTextModel):
    """Records the first request."""

    limits: list[int] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    scored: bool = False

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Any = None
    ) -> list[Generation]:
        """Record prompts and limit."""
        self.limits.append(max_new_tokens)
        self.prompts += prompts
        raise Asked

    def sample(self, prompts: Sequence[Prompt], max_new_tokens: int, **options: Any) -> Any:
        """Record prompts and limit."""
        return self.generate(prompts, max_new_tokens)

    def score(self, prompts: Any, completions: Any, *, progress: Any = None) -> list[TokenScores]:
        """Record that answers are scored."""
        self.scored = True
        raise Asked


@pytest.mark.parametrize("name", OFFERS)
def test_the_first_request_is_the_one_of_the_offer(name: str) -> None:
    """Also with a limit in the options."""
    offer = OFFERS[name]
    if name in OTHER_PROMPTS:
        assert offer.answer_limit is EvaluatorOffer.answer_limit or not offer.scores_references
        return
    fields = offer.config.model_fields
    assert "max_new_tokens" in fields or offer.scores_references
    for options in ({}, {"max_new_tokens": 77}) if "max_new_tokens" in fields else ({},):
        config = from_table(offer.config, {**NEEDED.get(name, {}), **options})
        for records in RECORD_SETS:
            if offer.accepts is None or {type(r) for r in records} <= offer.accepts:
                check_request(offer, config, records)


def check_request(offer: EvaluatorOffer[Any], config: Any, records: Sequence[Record]) -> None:
    model = Asking()
    context = RunContext(model=None, device="cpu", artifacts={}, open=lambda _: model)  # type: ignore[arg-type]
    evaluator = offer.build(config)
    try:
        if hasattr(evaluator, "compare"):
            evaluator.compare(model, records, context)
        else:
            evaluator.measure(model, records)
    except Asked:
        limit = offer.answer_limit(config, records)
        assert model.limits == ([] if limit is None else [limit])
        assert set(model.prompts) <= {last_exchange(record)[0] for record in records}
        assert model.scored == offer.scores_references
    except Exception:
        assert not model.limits  # rows that it refuses
