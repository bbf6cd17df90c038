"""Injected mistakes: each of them must be visible to the checks of the other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_families
import test_masks
import test_training
import torch

from tunesmith_vision.features import FeatureTable, ImageEncoder
from tunesmith_vision.grid_positions import GridPositions
from tunesmith_vision.image_blocks import ImageBlocks
from tunesmith_vision.vlm import ModelTower


def test_labels_on_placeholders_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of images move from the prompt to the answer, whose tokens are labels."""
    encode = ImageEncoder.encode

    def move(self: Any, rows: Any) -> list[list[list[int]]]:
        encoded = encode(self, rows)
        for spans, ids in zip(rows, encoded, strict=True):
            places = [at for at, span in enumerate(spans) if span.trained]
            for at in range(places[0]) if places else ():
                moved = [i for i in ids[at] if i >= self.table.vocabulary]
                ids[at] = [i for i in ids[at] if i < self.table.vocabulary]
                ids[places[0]] = [*ids[places[0]], *moved]
        return encoded

    monkeypatch.setattr(ImageEncoder, "encode", move)
    with pytest.raises(AssertionError, match="an image token is a label"):
        test_masks.test_no_label_is_on_an_image_in_any_position_and_turn()


def test_shifted_features_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lookup = FeatureTable.lookup

    def shift(self: Any, ids: Any) -> Any:
        return lookup(self, self.vocabulary + (ids - self.vocabulary + 1) % self.rows)

    monkeypatch.setattr(FeatureTable, "lookup", shift)
    with pytest.raises(AssertionError):
        test_training.test_the_loss_is_that_of_embeddings_in_plain_transformers(tmp_path)
    with pytest.raises(AssertionError):
        test_training.test_lookup_finds_each_row_of_each_image()
    with pytest.raises(AssertionError):
        test_families.test_scores_and_answers_equal_plain_transformers("llava")


def test_wrong_counts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = ModelTower.layout
    monkeypatch.setattr(ModelTower, "layout", lambda self, image: [*layout(self, image), -1])
    with pytest.raises(AssertionError):
        test_masks.test_counts_do_not_need_pixels()
    with pytest.raises(Exception, match="expected"):
        test_families.test_scores_and_answers_equal_plain_transformers("llava")


def test_swapped_images_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = FeatureTable.ids

    def swap(self: Any, sign: str) -> Any:
        last = self.count - 1
        return ids(self, chr(0x100000 + last - (ord(sign) - 0x100000)))

    monkeypatch.setattr(FeatureTable, "ids", swap)
    with pytest.raises(AssertionError):
        test_families.test_scores_and_answers_equal_plain_transformers("llava")


def test_positions_in_one_dimension_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = GridPositions.compute

    def flat(self: Any, ids: Any, positions: Any, lag: Any) -> Any:
        return positions.expand(3, -1, -1), compute(self, ids, positions, lag)[1]

    monkeypatch.setattr(GridPositions, "compute", flat)
    with pytest.raises(AssertionError):
        test_families.test_scores_and_answers_equal_plain_transformers("qwen2_vl")


def test_images_that_attend_backwards_only_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal(self: Any, ids: Any) -> Any:
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
        return {"full_attention": mask, "sliding_attention": mask}

    monkeypatch.setattr(ImageBlocks, "masks", causal)
    with pytest.raises(AssertionError):
        test_families.test_scores_and_answers_equal_plain_transformers("gemma3")
