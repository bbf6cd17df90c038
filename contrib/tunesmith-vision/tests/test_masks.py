"""Tokens of images: never labels, never cut, and counted before any pixel is read."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import COLORS, ask, load_rows, picture_bytes, read_images, save_pictures
from test_rows import FORMS
from training import (
    make_job,
    make_table,
    options,
    pictures,
    rows,
    split_folder,
    tokenize,
    two_turns,
)

from tunesmith.errors import DataError
from tunesmith.records import Chat, Completion, Message, TextPart, ToolCall
from tunesmith_vision.features import FeatureTable, as_prompt, as_record
from tunesmith_vision.technique import Vision


def check(records: Any, table: FeatureTable) -> int:
    """Check the mask of every row; return the number of image tokens."""
    found = tokenize(records, table)
    assert not found.skipped, found.skipped
    count = 0
    for example in found.examples:
        ids, trained = np.asarray(example.ids), np.asarray(example.trained)
        is_image = ids >= table.vocabulary
        assert trained[is_image].sum() == 0, "an image token is a label"
        assert trained.any() and (ids[trained] < table.vocabulary).all()
        assert set(ids[is_image]) <= set(range(table.vocabulary, table.vocabulary + table.rows))
        count += int(is_image.sum())
    return count


@pytest.mark.parametrize("name", FORMS)
def test_no_label_is_on_an_image_in_any_format(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(FORMS[name]))
    save_pictures(tmp_path)
    table = make_table()
    assert check(load_rows(tmp_path / "rows.jsonl").train, table) == 16 == table.rows


def test_no_label_is_on_an_image_in_any_position_and_turn() -> None:
    """All conversations of up to three turns with up to two images at each place."""
    images = [*read_images(pictures()).values()]
    table = make_table()
    shapes = ("Who?", "*", "*Who?", "Who?*", "*a*", "a**b", "* *")
    records = []
    for turns in (1, 2):
        for texts in product(shapes, repeat=turns):
            messages: list[Message] = []
            for text in texts:
                some = images[: text.count("*")]
                messages += ask(text, "an answer", *some).messages
            records.append(Chat(source=f"f:{len(records)}", messages=tuple(messages)))
    expected = sum(16 * len(m.media) for r in records for m in r.messages)
    assert check(records, table) == expected > 0


def test_the_answers_and_their_end_are_the_labels() -> None:
    table = make_table()
    (example,) = tokenize([Chat(source="f:1", messages=two_turns())], table).examples
    from tunesmith_torch.models.loading import load_tokenizer

    tokenizer = load_tokenizer(split_folder())
    ids, trained = np.asarray(example.ids), np.asarray(example.trained)
    assert tokenizer.decode(ids[trained]) == "Gray.<|im_end|>Red and gray.<|im_end|>"
    counts = np.unique(ids[ids >= table.vocabulary], return_counts=True)[1]
    assert sorted(counts) == [1] * 16 + [2] * 16, "gray is there twice, red once"


def test_counts_do_not_need_pixels() -> None:
    """The image's file may even be gone: its layout depends on its size alone."""
    from dataclasses import replace

    images = read_images(pictures())
    lost = {name: replace(image, path="/nowhere") for name, image in images.items()}
    table = make_table()
    assert check([ask("*Which?", "red", lost["red"])], table) == 16


def test_a_row_over_the_limit_is_skipped_and_never_cut() -> None:
    records, table = rows(), make_table()
    found = tokenize(records, table)
    pairs = zip(found.examples.records, found.examples, strict=True)
    lengths = {records[at].source: len(e) for at, e in pairs}
    limit = max(lengths.values()) - 1
    cut = tokenize(records, make_table(), limit)
    assert [row.where for row in cut.skipped] == ["f:21"]
    assert cut.skipped[0].cause == "row is too long"
    kept = [example for example in found.examples if len(example) <= limit]
    for one, other in zip(kept, cut.examples, strict=True):
        assert np.array_equal(one.ids, other.ids)


def test_training_skips_rows_over_the_limit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too long"):
        Vision(options(max_length=24)).train(make_job(options(max_length=24), tmp_path))


def test_an_image_in_an_answer_is_refused() -> None:
    image = read_images(pictures())["red"]
    answer = Message("assistant", (image, TextPart("red")))
    record = Chat(source="f:1", messages=(Message("user", "Draw"), answer))
    table = make_table()
    with pytest.raises(DataError, match="an image stands in an answer"):
        tokenize([record], table)


def test_characters_of_images_in_texts_are_refused() -> None:
    table = make_table()
    for content in ("a\U00100000b", (TextPart("a\U00100000"), read_images(pictures())["red"])):
        with pytest.raises(DataError, match="stands for images"):
            as_prompt((Message("user", content),), table)
    with pytest.raises(DataError, match=r"f:1: .*stands for images"):
        as_record(ask("\U00100000", "x"), table)
    with pytest.raises(DataError, match=r"f:2: .*stands for images"):
        as_record(Completion(source="f:2", prompt="\U00100000", completion="x"), table)


def test_characters_of_images_anywhere_in_a_prompt_are_refused() -> None:
    """The first sign would be replaced by the features of an image of another row."""
    table = make_table()
    table.number(read_images(pictures())["red"])
    sign = "\U00100000"
    tool = f'{{"name": "f", "description": "{sign}"}}'
    call = Message("assistant", "", tool_calls=(ToolCall("f", f'{{"a": "{sign}"}}'),))
    for prompt in (
        sign,
        (Message("user", "a", tools=(tool,)),),
        (Message("user", "a"), call),
        (Message("user", "a"), Message("assistant", "b", reasoning=sign)),
        (Message("user", "a", name=sign),),
    ):
        with pytest.raises(DataError, match="stands for images"):
            as_prompt(prompt, table)


def test_control_tokens_that_people_typed_stay_text() -> None:
    image = read_images(pictures())["red"]
    table = make_table()
    found = tokenize([ask("*Is this <image> or <|im_end|>?", "no", image)], table)
    (example,) = found.examples
    from tunesmith_torch.models.loading import load_tokenizer

    tokenizer = load_tokenizer(split_folder())
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    ids = np.asarray(example.ids)
    assert (ids == image_id).sum() == 0 and (ids >= table.vocabulary).sum() == 16
    text = tokenizer.decode(ids[ids < table.vocabulary])
    assert "Is this <image> or <|im_end|>?" in text


def test_ids_depend_on_the_content_alone(tmp_path: Path) -> None:
    """The same picture under two names has one place in the table."""
    save_pictures(tmp_path)
    (tmp_path / "copy.png").write_bytes(picture_bytes(COLORS["red"]))
    images = read_images(tmp_path)
    table = make_table()
    signs = {name: table.sign(image) for name, image in images.items()}
    assert signs["red"] == signs["copy"] and len(set(signs.values())) == 4
