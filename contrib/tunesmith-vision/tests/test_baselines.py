"""Linear probe, nearest neighbor, and the untuned model."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest
import torch
from pictures import ask, picture_bytes, question
from training import options, rows, split_folder

from tunesmith.contracts import BaselineTask, Generation
from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith_vision.baselines import (
    ImageMajority,
    ImageMajorityOptions,
    ImageNearest,
    ImageNearestOptions,
    ImagePixels,
    ImagePixelsOptions,
    ImageProbe,
    ImageProbeOptions,
    ImageZeroShot,
    ImageZeroShotOptions,
    suits_classifier,
)
from tunesmith_vision.images import Image, ImageReader, open_picture
from tunesmith_vision.ocr import ImageOcr, ImageOcrOptions, OcrTextModel, TextReader
from tunesmith_vision.technique import Vision
from tunesmith_vision.towers import LiteTower


def shades(folder: Path) -> list[tuple[str, Image]]:
    """Return pictures of two kinds, each in several shades."""
    reader = ImageReader(folder, 10**6, 10**6)
    found = []
    for step in range(6):
        for name, color in (
            ("warm", (180 + 10 * step, 20, 10)),
            ("cold", (10, 20, 180 + 10 * step)),
        ):
            (folder / f"{name}{step}.png").write_bytes(picture_bytes(color))
            found.append((name, reader.read(f"{name}{step}.png")))
    return found


def task(records: Any, base: Any = None) -> BaselineTask:
    return BaselineTask(train=records, base=lambda: base, seed=0)


@pytest.mark.parametrize(
    "baseline",
    [
        ImageProbe(from_table(ImageProbeOptions, {})),
        ImageNearest(from_table(ImageNearestOptions, {})),
        ImagePixels(from_table(ImagePixelsOptions, {})),
    ],
)
def test_classifiers_learn_the_images(baseline: Any, tmp_path: Path) -> None:
    found = shades(tmp_path)
    train = [ask("*Which?", name, image) for name, image in found[:8]]
    assert suits_classifier(train) and not suits_classifier([ask("Who?", "Ann")] * 4)
    for variant in baseline.variants(task(train)):
        prompts: Any = [(question("*Which?", image),) for _, image in found[8:]]
        answers = variant.model.generate(prompts, 8)
        assert [a.text for a in answers] == [name for name, _ in found[8:]], variant.name
        alone = variant.model.generate(prompts[-1:], 8)
        assert alone[0].text == answers[-1].text
        assert variant.model.generate([(question("Who?"),)], 8)[0].text in ("warm", "cold")
        with pytest.raises(UsageError, match="log-probabilities"):
            variant.model.score(prompts, ["warm"] * 4)


def test_pixels_need_no_tower_and_see_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("tunesmith_vision.towers.LiteTower")
    sides = {}
    for name, turn in (("upright", False), ("turned", True)):
        picture = PIL.Image.open(io.BytesIO(picture_bytes((9, 9, 9))))
        (picture.rotate(180) if turn else picture).save(tmp_path / f"{name}.png")
        sides[name] = ImageReader(tmp_path, 10**6, 10**6).read(f"{name}.png")
    train = [ask("*Which?", name, image) for name, image in sides.items()]
    pixels = ImagePixels(from_table(ImagePixelsOptions, {"c": [1000.0]}))
    (variant,) = pixels.variants(task(train))
    prompts: Any = [(question("*Which?", image),) for image in sides.values()]
    assert [a.text for a in variant.model.generate(prompts, 8)] == [*sides]


def test_the_majority_is_the_most_frequent_answer(tmp_path: Path) -> None:
    found = shades(tmp_path)
    train = [ask("*Which?", name, image) for name, image in found[:8]]
    train.append(ask("*Which?", "cold", found[8][1]))
    (variant,) = ImageMajority(from_table(ImageMajorityOptions, {})).variants(task(train))
    prompts: Any = [(question("*Which?", image),) for _, image in found]
    assert {answer.text for answer in variant.model.generate(prompts, 8)} == {"cold"}


def test_the_untuned_model_is_measured_only_if_it_was_trained_on_images(tiny_model: Path) -> None:
    baseline = ImageZeroShot(from_table(ImageZeroShotOptions, {}))
    vlm = Vision(options()).open(split_folder(), None, device="cpu")
    (variant,) = baseline.variants(task(rows(), vlm))
    assert variant.model is vlm and not variant.omitted
    language = Vision(options()).open(tiny_model, None, device="cpu")
    (variant,) = baseline.variants(task(rows(), language))
    assert "never trained on images" in variant.omitted


def test_the_tower_is_pretrained_and_looks_at_positions() -> None:
    """Its features differ between places, and do not depend on the size of a flat picture."""
    tower = LiteTower()
    image = rows()[0].messages[0].media[0]  # type: ignore[attr-defined]
    features = tower.encode(open_picture(image))
    assert features.shape == (25, 1280) and len(tower.layout(image)) == 25
    assert features.std(0).max() > 0.1, "all places are the same"
    assert features.min() >= 0 and features.max() <= 6
    projector = tower.build_projector(64, 0.05, seed=1)
    with torch.no_grad():
        size = float(projector(features).pow(2).mean().sqrt())
    assert 0.01 < size < 0.25, "embeddings of images have the size of those of text"
    again = tower.build_projector(64, 0.05, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(projector.parameters(), again.parameters(), strict=True)
    )


class FakeReader(TextReader):
    """Reads the name of the file in place of its text, and counts."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def _engine(self) -> Any:
        def read(pixels: Any) -> Any:
            self.count += 1
            return SimpleNamespace(txts=("TOTAL", str(pixels[0, 0].tolist())))

        return read


class Echo:
    """Answers with everything that it was asked."""

    def generate(self, prompts: Any, max_new_tokens: int, **_: Any) -> list[Generation]:
        texts = ["|".join(f"{m.role}:{m.text}" for m in prompt) for prompt in prompts]
        return [Generation(text, 1, "stop") for text in texts]


def test_ocr_gives_the_model_text_in_place_of_images(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    found = shades(tmp_path)
    reader = FakeReader()
    examples = reader.read_exchange(ask("*Which?", "warm", found[0][1]))
    model: Any = OcrTextModel(Echo(), reader, examples, "Be brief.")
    for _ in range(2):
        (answer,) = model.generate([(question("See *. Which?", found[1][1]),)], 8)
    assert answer.text == (
        "system:Be brief.|user:TOTAL\n[250, 250, 250]\nWhich?|assistant:warm"
        "|user:See TOTAL\n[250, 250, 250]\n. Which?"
    )
    assert reader.count == 2, "each image is read once"


def test_ocr_has_a_variant_for_each_number_of_examples(tmp_path: Path) -> None:
    rows = [ask("*Which?", name, image) for name, image in shades(tmp_path)[:2]]
    reader = ImageOcr(from_table(ImageOcrOptions, {"k": [0, 4]}))
    none, four = reader.variants(task(rows, Echo()))
    assert none.name == "k=0" and not none.omitted
    assert four.omitted == "there are fewer training rows"


def test_rapidocr_reads_text_without_a_download(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    from PIL import ImageDraw, ImageFont

    picture = PIL.Image.new("RGB", (320, 80), "white")
    ImageDraw.Draw(picture).text((20, 20), "TOTAL 42.50", "black", ImageFont.load_default(40))
    picture.save(tmp_path / "receipt.png")
    image = ImageReader(tmp_path, 10**6, 10**6).read("receipt.png")
    assert "42.50" in TextReader().read(image)
