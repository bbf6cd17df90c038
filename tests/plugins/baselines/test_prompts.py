"""Baselines with a model: what their prompts say and show."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from baseline_rows import WORDS, class_rows, list_variants, names, object_rows, text_rows
from word_encoder import WordEncoder

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.errors import DataError
from tunesmith.offers import BaselineOffer
from tunesmith.records import Message, Preference, Prompt, Record, Text, last_exchange
from tunesmith.testing.baselines import DigestModel
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.choice_model import ChoiceModel
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_plugins.baselines.prompt import PROMPT, PromptOptions
from tunesmith_plugins.baselines.random_shots import RANDOM_SHOTS
from tunesmith_plugins.baselines.retrieved_shots import RETRIEVED_SHOTS
from tunesmith_plugins.baselines.zero_shot import ZERO_SHOT

TRAIN = class_rows(60, 1)
QUESTION = (Message("user", "my mortgage is gone"),)
SHOTS = (RANDOM_SHOTS, RETRIEVED_SHOTS)
TEMPLATES = ["turns", "labeled", "instruction last"]
WAYS = ("", ", constrained", ", calibrated")
"""Ends of the names of a prompt's variants: free answers, labels, calibrated labels."""


def built(variant: BaselineVariant, prompt: Prompt = QUESTION) -> tuple[Message, ...]:
    """Return the conversation that the model of a variant gets for a prompt."""
    model = variant.model.model if isinstance(variant.model, ChoiceModel) else variant.model
    assert isinstance(model, PromptedModel)
    conversation = model.build_prompt(prompt, 16)
    assert not isinstance(conversation, str)
    return conversation


def shown(variant: BaselineVariant, prompt: Prompt = QUESTION) -> list[str]:
    """Return the answers of the worked examples."""
    return [m.text for m in built(variant, prompt) if m.role == "assistant"]


def test_zero_shot_of_classes() -> None:
    plain, described, constrained, calibrated = list_variants(ZERO_SHOT, TRAIN)
    assert built(plain) == (Message("system", "Sort it."), *QUESTION)
    text = built(described)[0].text
    assert text.startswith("Sort it.\n\nAnswer with exactly one of these labels")
    assert all(f"- {label}" in text for label in WORDS)
    assert isinstance(constrained.model, ChoiceModel)
    assert set(constrained.model.labels) == set(WORDS)
    assert constrained.model.generate([QUESTION], 1)[0].text in WORDS
    assert isinstance(calibrated.model, ChoiceModel)
    prompts = calibrated.model.calibration
    assert len(prompts) == 16 and len({*prompts}) == 16 and constrained.model.calibration == ()
    answers = {last_exchange(row)[0][0].text: row.completion for row in TRAIN}  # type: ignore
    assert {answers[prompt[0].text] for prompt in prompts} == {*WORDS}  # type: ignore


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (class_rows(60, 1), ["system prompt", "with labels", "constrained", "calibrated"]),
        (object_rows(60, 1), ["system prompt", "with keys"]),
        (text_rows(20, 1), ["system prompt", "with length"]),
        ([Text(source="1", text="a text")], ["system prompt"]),
    ],
)
def test_what_can_be_described(rows: list[Record], expected: list[str]) -> None:
    assert names(list_variants(ZERO_SHOT, rows)) == expected
    assert names(list_variants(ZERO_SHOT, rows, describe=False, constrain=False)) == expected[:1]


def test_random_shots_show_every_label() -> None:
    variants = list_variants(RANDOM_SHOTS, TRAIN, k=[2, 6], constrain=False)
    draws = [f"k={k}, draw {draw}" for k in (3, 6) for draw in (1, 2, 3)]
    assert names(variants) == draws
    all_ways = names(list_variants(RANDOM_SHOTS, TRAIN, k=[2, 6]))
    assert all_ways == [f"{draw}{way}" for draw in draws for way in WAYS]
    assert set(shown(variants[0])) == set(WORDS)
    assert Counter(shown(variants[3])) == dict.fromkeys(WORDS, 2)
    assert len({tuple(m.text for m in built(v)) for v in variants[:3]}) == 3
    assert built(variants[0])[1:-1] == built(variants[0], (Message("user", "?"),))[1:-1]


def test_retrieved_shots_are_similar_to_the_question() -> None:
    both = names(list_variants(RETRIEVED_SHOTS, TRAIN, k=[2, 6]))
    assert both == [f"k={k}{way}" for k in (2, 6) for way in WAYS]
    variants = list_variants(RETRIEVED_SHOTS, TRAIN, k=[2, 6], constrain=False)
    assert shown(variants[0]) == ["loan", "loan"]
    assert "mortgage" in built(variants[0])[-3].text
    assert Counter(shown(variants[1]))["loan"] <= 4


def test_an_encoder_retrieves_only_with_its_table() -> None:
    """The question has no word of a loan, and the encoder treats one as a synonym."""
    synonyms = dict.fromkeys(["house", "mortgage"], "mortgage")
    options = RETRIEVED_SHOTS.config(k=[2], constrain=False)
    question = (Message("user", "house house house"),)
    found = {}
    for everywhere in (True, False):
        task = BaselineTask(
            train=TRAIN, base=DigestModel, seed=1, encodes_everywhere=everywhere,
            encoder=lambda: WordEncoder(**synonyms),
        )  # fmt: skip
        [variant] = RETRIEVED_SHOTS.build(options).variants(task)
        found[everywhere] = "mortgage" in built(variant, question)[-3].text
    assert found == {True: True, False: False}


def test_no_more_retrieved_shots_than_fit() -> None:
    long = [
        type(row)(source=row.source, prompt=row.prompt + " really" * 200, completion=row.completion)
        for row in TRAIN
    ]
    variants = list_variants(RETRIEVED_SHOTS, long)  # a model of an unknown context: 6,000 signs
    assert names(variants) == [f"k=3{way}" for way in WAYS]


def test_a_training_row_is_not_shown_for_itself() -> None:
    [variant] = list_variants(RETRIEVED_SHOTS, TRAIN, k=[60], constrain=False)
    for row in TRAIN[:5]:
        prompt = last_exchange(row)[0]
        assert row.prompt not in [m.text for m in built(variant, prompt)[:-1]]


@pytest.mark.parametrize("offer", SHOTS, ids=lambda offer: offer.name)
def test_descriptions_can_be_skipped(offer: BaselineOffer[Any]) -> None:
    variants = list_variants(offer, TRAIN, describe=False, constrain=False)
    assert {built(v)[0].text for v in variants} == {"Sort it."}
    assert all("Answer with" not in message.text for v in variants for message in built(v))


@pytest.mark.parametrize("offer", SHOTS, ids=lambda offer: offer.name)
def test_rows_that_cannot_be_shown(offer: BaselineOffer[Any]) -> None:
    assert not offer.suits([Text(source="1", text="a text")])
    assert list_variants(offer, [Text(source="1", text="a text")]) == []
    pair = Preference(source="1", prompt=QUESTION, chosen="yes", rejected="no")
    assert offer.suits([pair])
    assert shown(list_variants(offer, [pair])[0], (Message("user", "other"),)) == ["yes"]


@pytest.mark.parametrize("offer", [ZERO_SHOT, *SHOTS], ids=lambda offer: offer.name)
def test_the_order_of_training_rows_does_not_matter(offer: BaselineOffer[Any]) -> None:
    shuffled = random.Random(5).sample(TRAIN, len(TRAIN))
    first, second = ([built(v) for v in list_variants(offer, rows)] for rows in (TRAIN, shuffled))
    assert first == second


def test_prompts_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Be brief.", encoding="utf-8")
    (tmp_path / "b.toml").write_text('user = "Sort: {prompt}"', encoding="utf-8")
    files = [str(tmp_path / name) for name in ("a.txt", "b.toml")]
    both = names(list_variants(PROMPT, TRAIN, files=files))
    assert both == [f"{name}{way}" for name in ("a.txt", "b.toml") for way in WAYS]
    variants = list_variants(PROMPT, TRAIN, files=files, constrain=False)
    assert names(variants) == ["a.txt", "b.toml"]
    assert [m.text for m in built(variants[0])] == ["Be brief.", "my mortgage is gone"]
    assert [m.text for m in built(variants[1])] == ["Sort: my mortgage is gone"]
    assert list_variants(PROMPT, TRAIN) == []
    assert not PROMPT.suits(TRAIN) and not PROMPT.is_configured(PromptOptions())
    assert PROMPT.is_configured(PromptOptions(files=files))


def test_a_prompt_that_is_missing_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        PROMPT.build(PromptOptions(files=[str(tmp_path / "nowhere.txt")]))


def test_the_first_prompts_cover_all_draws_and_templates() -> None:
    options = {"k": [3], "templates": TEMPLATES}
    variants = list_variants(RANDOM_SHOTS, TRAIN, **options, constrain=False, tokens=10**6)
    found = names(variants)
    assert found[:3] == ["k=3, draw 1", "k=3, draw 2, labeled", "k=3, draw 3, instruction last"]
    assert len(set(found)) == len(found) == 9
    turns, labeled, last = (
        {v.name: built(v) for v in variants}[f"k=3, draw 1{template}"]
        for template in ("", ", labeled", ", instruction last")
    )
    assert [m.text for m in labeled[1:]] == [
        f"Question: {m.text}\nAnswer:" if m.role == "user" else m.text for m in turns[1:]
    ]
    assert labeled[0] == turns[0]
    description = turns[0].text.removeprefix("Sort it.\n\n")
    assert last == (
        Message("system", "Sort it."),
        *turns[1:-1],
        Message("user", f"{turns[-1].text}\n\n{description}"),
    )


def test_prompts_beyond_the_token_limit_are_left_out_with_the_reason() -> None:
    """The limit counts tokens, so every machine tries the same prompts."""
    options = {"k": [3], "templates": TEMPLATES}
    everything = list_variants(RANDOM_SHOTS, TRAIN, **options, tokens=10**6)
    assert not any(variant.omitted for variant in everything)
    few = list_variants(RANDOM_SHOTS, TRAIN, **options, tokens=1)
    assert names([v for v in few if not v.omitted]) == [f"k=3, draw 1{way}" for way in WAYS]
    omitted = [variant for variant in few if variant.omitted]
    assert len(omitted) == 8
    assert {v.omitted for v in omitted} == {
        "the limit `tokens` in [baselines.random-shots] was reached"
    }
    counts = [
        sum(not v.omitted for v in list_variants(RANDOM_SHOTS, TRAIN, **options, tokens=tokens))
        for tokens in range(0, 20_000, 1_000)
    ]
    assert counts == sorted(counts) and {counts[0], counts[-1]} == {3, 27}


def test_a_worked_example_does_not_calibrate() -> None:
    """Its own answer would be in the prompt."""
    for few in (TRAIN, TRAIN[:8]):
        for variant in list_variants(RANDOM_SHOTS, few, k=[6], templates=TEMPLATES):
            if isinstance(variant.model, ChoiceModel) and variant.model.calibration:
                questions = {prompt[0].text for prompt in variant.model.calibration}  # type: ignore[union-attr]
                shown = {m.text for m in built(variant)[:-1] if m.role == "user"}
                assert not any(q in text for q in questions for text in shown)


@pytest.mark.parametrize("offer", [ZERO_SHOT, *SHOTS], ids=lambda offer: offer.name)
def test_an_answer_does_not_depend_on_other_variants(offer: BaselineOffer[Any]) -> None:
    """Variants share the scores of labels, so each is also tried alone and in another order."""
    prompts = [last_exchange(row)[0] for row in class_rows(5, 9)]

    def answers(variants: list[BaselineVariant]) -> dict[str, list[str]]:
        return {v.name: [a.text for a in v.model.generate(prompts, 8)] for v in variants}

    options = {"templates": TEMPLATES, "draws": 1} if offer is RANDOM_SHOTS else {}
    together = answers(list_variants(offer, TRAIN, **options))
    assert answers(list_variants(offer, TRAIN, **options)[::-1]) == together
    for place, (name, given) in enumerate(together.items()):
        assert answers([list_variants(offer, TRAIN, **options)[place]]) == {name: given}


def test_labels_are_scored_once_for_all_ways_to_choose_them() -> None:
    """Twice the same rows, and 16 prompts to calibrate with: 3 labels each."""
    model = FakeTextModel()
    task = BaselineTask(train=TRAIN, base=lambda: model, seed=1)
    prompts = [last_exchange(row)[0] for row in class_rows(5, 9)]
    for variant in ZERO_SHOT.build(ZERO_SHOT.config()).variants(task):
        if isinstance(variant.model, ChoiceModel):
            variant.model.generate(prompts, 8)
            variant.model.generate(prompts, 8)
    assert model.calls == [("score", 5 * 3), ("score", 16 * 3)]
