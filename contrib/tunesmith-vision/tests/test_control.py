"""The shuffle control, and the verdict that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pictures import ask, picture_bytes, read_images, save_pictures

from tunesmith.contracts import RunContext, TokenScores
from tunesmith.execution.measure_part import measure_part
from tunesmith.records import Chat, Message, last_exchange
from tunesmith_vision.control import (
    DOES_NOT_LOOK,
    IMAGE_CONTROL,
    ImageControl,
    ImageControlOptions,
    OtherImages,
    give_verdict,
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


def swap(rows: Sequence[Chat], references: Sequence[Chat] = ()) -> list[tuple[Any, bool]]:
    others = OtherImages.of(references or rows)
    return [others.swap(*last_exchange(row)) for row in rows]


def test_every_image_is_replaced_and_texts_stay(images: dict[str, Image]) -> None:
    rows = records(images)
    rows.append(ask("* and *", "two", *[*images.values()][:2]))
    for row, (after, counts) in zip(rows, swap(rows), strict=True):
        before = row.messages[0]
        assert counts and all(
            old != new for old, new in zip(before.media, after[0].media, strict=True)
        )
        texts = [
            [part for part in message.content if not isinstance(part, Image)]
            for message in (before, after[0])
        ]
        assert texts[0] == texts[1]
    assert len({*swap(rows)[-1][0][0].media}) == 2, "two images stay two images"
    assert swap(rows[::-1]) == swap(rows)[::-1], "the order has an effect"
    assert swap(rows[3:5], rows) == swap(rows)[3:5], "the choice of rows has an effect"


def unbalanced(folder: Path, rare: int = 2) -> list[Chat]:
    """Return rows with 20 images of which few are of the rare class."""
    for n in range(20):
        (folder / f"{n:02}.png").write_bytes(picture_bytes((200, n, n)))
    found = [*read_images(folder).values()]
    return [
        ask("*Which?", "rare" if n < rare else "usual", image, source=f"f:{n}")
        for n, image in enumerate(found)
    ]


def test_the_other_image_belongs_to_another_answer(tmp_path: Path) -> None:
    """Images of the same class would hide that a model looks, above all if one class is rare."""
    rows = unbalanced(tmp_path)
    classes = {row.messages[0].media[0]: row.messages[1].text for row in rows}
    for row, (after, counts) in zip(rows, swap(rows), strict=True):
        assert counts and classes[after[0].media[0]] != row.messages[1].text


def test_the_gain_is_that_of_rows_that_can_show_one(tmp_path: Path) -> None:
    """95 rows without images must not make 5 with images look like a model that is blind."""
    rows = unbalanced(tmp_path)
    names = {row.messages[0].media[0].sha256: row.messages[1].text for row in rows}  # type: ignore[attr-defined]
    texts = [ask(f"Who is {n}?", "Ann", source=f"t:{n}") for n in range(400)]

    class Mixed(Looking):
        def score(self, prompts: Any, completions: Sequence[Any], **_: Any) -> list[TokenScores]:
            return [
                TokenScores((-1.0 - (names[p[-1].media[0].sha256] != a),))
                if p[-1].media
                else TokenScores((-1.0,))
                for p, a in zip(prompts, completions, strict=True)
            ]

    model: Any = Mixed(names, 1.0)
    (found,) = ImageControl(ImageControlOptions()).measure(model, [*rows, *texts])
    assert found.details["looks"] and "20 rows" in found.details["finding"]
    assert found.weights == (1.0,) * 20 + (0.0,) * 400 and found.interval == (1.0, 1.0)


def test_rows_that_are_alike_cannot_show_anything(tmp_path: Path) -> None:
    rows = unbalanced(tmp_path, rare=0)
    model: Any = Looking({row.messages[0].media[0].sha256: "usual" for row in rows}, 1.0)  # type: ignore[attr-defined]
    (found,) = ImageControl(ImageControlOptions()).measure(model, rows)
    assert "looks" not in found.details and found.weights is None


def test_a_part_of_the_rows_has_the_values_of_all(images: dict[str, Image]) -> None:
    """The core measures some rows with rules from all; other rows get empty answers."""
    rows = records(images)
    names = {image.sha256: name for name, image in images.items()}
    model: Any = Looking(names, 2.0)
    some = rows[:1] + rows[5:6]
    run = RunContext(
        model=Path(), device="cpu", artifacts={}, open=lambda artifact: model, test=rows
    )
    control = ImageControl(ImageControlOptions())
    (part,) = measure_part(IMAGE_CONTROL, control, model, some, run)
    assert all(abs(value - 2.0) < 0.2 for value in part.values) and "looks" in part.details


def test_rows_of_one_image_are_one_sample(images: dict[str, Image]) -> None:
    """Many questions about two images do not show that a model never looks."""
    rows = [
        ask(f"{n} *Which?", name, images[name], source=f"f:{n}{name}")
        for n in range(50)
        for name in ("red", "blue")
    ]

    class Blind(Looking):
        def score(self, prompts: Any, completions: Sequence[Any], **_: Any) -> list[TokenScores]:
            red = images["red"].sha256
            return [TokenScores((-1.0 + 0.1 * (p[-1].media[0].sha256 == red),)) for p in prompts]

    model: Any = Blind({}, 0.0)
    (found,) = ImageControl(ImageControlOptions()).measure(model, rows)
    assert found.details["looks"] is None


def test_prompts_without_images_stay(images: dict[str, Image]) -> None:
    rows = [*records(images), ask("Who?", "Ann")]
    assert swap(rows)[-1] == ((Message("user", "Who?"),), False)
    assert OtherImages.of(rows).swap("plain", Message("assistant", "a")) == ("plain", False)


def test_one_image_cannot_show_anything(images: dict[str, Image]) -> None:
    some = [replace(r) for r in records({"red": images["red"]})]
    model: Any = Looking({images["red"].sha256: "red"}, 1.0)
    (found,) = ImageControl(ImageControlOptions()).measure(model, some)
    assert "looks" not in found.details and "cannot tell" in found.details["finding"]
    assert give_verdict(evidence(found)) is None


def test_it_is_a_default_for_rows_with_images_only(images: dict[str, Image]) -> None:
    assert IMAGE_CONTROL.default_for(records(images))
    assert not IMAGE_CONTROL.default_for([ask("Who?", "Ann")])
