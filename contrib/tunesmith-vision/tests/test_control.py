"""The shuffle control, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pictures import ask, question, read_images, save_pictures

from tunesmith.contracts import TokenScores
from tunesmith.records import Chat, Message
from tunesmith_vision.control import (
    DOES_NOT_LOOK,
    IMAGE_CONTROL,
    ImageControl,
    ImageControlOptions,
    give_verdict,
    shuffle_images,
)
from tunesmith_vision.images import Image


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Image]:
    return read_images(save_pictures(tmp_path))


def records(images: dict[str, Image], copies: int = 6) -> list[Chat]:
    return [
        ask(f"{n} *Which?", name, image, source=f"f:{n}")
        for n in range(copies)
        for name, image in images.items()
    ]


@dataclass(frozen=True)
class Looking:
    """Scores answers by the image, by ``strength``: 0 is a model that does not look."""

    names: dict[str, str]
    strength: float

    def score(self, prompts: Any, completions: Sequence[Any], **_: Any) -> list[TokenScores]:
        found = []
        for number, (prompt, answer) in enumerate(zip(prompts, completions, strict=True)):
            right = self.names[prompt[-1].media[0].sha256] == answer
            noise = (number * 37 % 11 - 5) / 10 * right
            found.append(TokenScores((-1.0 - self.strength * (not right) + noise * 0.1,)))
        return found


def measure(images: dict[str, Image], strength: float) -> Any:
    names = {image.sha256: name for name, image in images.items()}
    model: Any = Looking(names, strength)
    (found,) = ImageControl(ImageControlOptions()).measure(model, records(images))
    return found


def test_a_model_that_looks_holds_and_one_that_does_not_fails(images: dict[str, Image]) -> None:
    looking, blind = measure(images, 2.0), measure(images, 0.0)
    assert looking.details["looks"] and looking.details["holds"]
    assert abs(sum(looking.values) / len(looking.values) - 2.0) < 0.1
    assert blind.details["looks"] is False and not blind.details["holds"]


def test_few_rows_cannot_show_that_a_model_does_not_look(images: dict[str, Image]) -> None:
    names = {image.sha256: name for name, image in images.items()}
    model: Any = Looking(names, 3.0)
    pairs = [ask("*Which?", answer, images["red"]) for answer in ("red", "blue")]
    pairs.append(ask("*Which?", "blue", images["blue"]))
    (found,) = ImageControl(ImageControlOptions()).measure(model, pairs)
    assert found.details["looks"] is None and not found.details["holds"]
    assert give_verdict(evidence(found)) is None


def evidence(measurement: Any) -> Any:
    value = sum(measurement.values) / len(measurement.values)
    event = SimpleNamespace(
        model="tuned", metric="image-gain", value=value, details=measurement.details
    )
    base = SimpleNamespace(model="base", metric="image-gain", value=0.0, details={"looks": False})
    other = SimpleNamespace(model="tuned", metric="exact-match", value=1.0, details={})
    return SimpleNamespace(measured=[base, other, event])


def test_the_verdict_states_that_a_model_does_not_look(images: dict[str, Image]) -> None:
    assert give_verdict(evidence(measure(images, 2.0))) is None, "the built-in rule decides"
    verdict = give_verdict(evidence(measure(images, 0.0)))
    assert verdict is not None and verdict["word"] == DOES_NOT_LOOK
    assert not verdict["worth_it"] and "does not look at the images" in verdict["sentence"]
    assert give_verdict(SimpleNamespace(measured=[])) is None  # type: ignore[arg-type]


def test_every_image_is_replaced_by_another_one(images: dict[str, Image]) -> None:
    prompts: list[Any] = [r.messages[:1] for r in records(images)]
    prompts.append((question("* and *", *[*images.values()][:2]),))
    shuffled: list[Any] = shuffle_images(prompts)
    partners = {}
    for before, after in zip(prompts, shuffled, strict=True):
        for old, new in zip(before[0].media, after[0].media, strict=True):
            assert old != new and partners.setdefault(old, new) == new
        texts = [
            [part for part in message.content if not isinstance(part, Image)]
            for message in (before[0], after[0])
        ]
        assert texts[0] == texts[1]
    assert {*partners} == {*partners.values()} == {*images.values()}
    assert shuffle_images(prompts[::-1]) == shuffled[::-1], "the order has an effect"


def test_prompts_without_images_stay(images: dict[str, Image]) -> None:
    prompts: list[Any] = ["plain", (Message("user", "Who?"),)]
    assert shuffle_images(prompts) == prompts


def test_one_image_cannot_show_anything(images: dict[str, Image]) -> None:
    some = [replace(r) for r in records({"red": images["red"]})]
    model: Any = Looking({images["red"].sha256: "red"}, 1.0)
    (found,) = ImageControl(ImageControlOptions()).measure(model, some)
    assert "looks" not in found.details and "cannot tell" in found.details["finding"]
    assert give_verdict(evidence(found)) is None


def test_it_is_a_default_for_rows_with_images_only(images: dict[str, Image]) -> None:
    assert IMAGE_CONTROL.default_for(records(images))
    assert not IMAGE_CONTROL.default_for([ask("Who?", "Ann")])
