"""Baseline ``image-ocr``: the text that OCR reads in the images, given to the untuned model.

If it answers as well as the tuned model, read the text first and use a language model alone. The
texts are cached by the image's SHA-256. RapidOCR's wheel contains its models; nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.options import Options
from tunesmith.plugins import cache_folder
from tunesmith.records import Message, Prompt, Record, TextPart, last_exchange
from tunesmith.storage import write_atomic
from tunesmith_vision.images import Image, open_picture, replace_images

__all__ = ["ImageOcr", "ImageOcrOptions"]


class ImageOcrOptions(Options):
    """Options of ``image-ocr``: the numbers of worked examples to choose from."""

    k: list[Annotated[int, Field(ge=0, le=64)]] = Field(
        [0, 4],
        min_length=1,
        description="Numbers of training rows, with the text of their images, before the question.",
    )


@dataclass(frozen=True)
class ImageOcr:
    """The untuned model with the text in the images instead of the images."""

    options: ImageOcrOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one variant for each number of examples."""
        reader = TextReader()
        for k in self.options.k:
            rows = [row for row in task.train if not isinstance(last_exchange(row)[0], str)][:k]
            if len(rows) < k:
                yield BaselineVariant(
                    name=f"k={k}", model=task.base(), omitted="there are fewer training rows"
                )
                continue
            examples = tuple(turn for row in rows for turn in reader.read_exchange(row))
            model = OcrTextModel(task.base(), reader, examples, task.system_prompt)
            yield BaselineVariant(name=f"k={k}", model=model)


class TextReader:
    """Reads the text in images, once per image."""

    @cached_property
    def _engine(self) -> Any:
        from rapidocr import RapidOCR

        return RapidOCR(params={"Global.log_level": "error"})

    def read(self, image: Image) -> str:
        """Return the lines of text in an image, from top to bottom."""
        path = self._cache_path(image)
        if path.is_file():
            return path.read_text(encoding="utf-8")
        pixels_HWC = np.asarray(open_picture(image))[..., ::-1]  # RapidOCR expects BGR
        text = "\n".join(self._engine(np.ascontiguousarray(pixels_HWC)).txts or ())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
        return text

    def _cache_path(self, image: Image) -> Path:
        return cache_folder() / "vision" / f"rapidocr-{version('rapidocr')}" / image.sha256

    def read_prompt(self, prompt: Prompt) -> Prompt:
        """Return a prompt with texts in place of its images."""
        if isinstance(prompt, str):
            return prompt
        return replace_images(prompt, lambda image: TextPart(f"{self.read(image)}\n"))

    def read_exchange(self, record: Record) -> tuple[Message, ...]:
        """Return the last question of a row, with texts in place of images, and its answer."""
        prompt, answer = last_exchange(record)
        read = self.read_prompt(prompt)
        assert not isinstance(read, str)
        return (read[-1], Message("assistant", answer.text))


@dataclass(frozen=True)
class OcrTextModel(WrappedModel):
    """A text model that gets the text in images instead of the images."""

    reader: TextReader
    examples: tuple[Message, ...]
    system: str | None

    def convert_prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """Return the prompts with examples, and with texts in place of images."""
        return [self._build_prompt(self.reader.read_prompt(prompt)) for prompt in prompts]

    def _build_prompt(self, prompt: Prompt) -> Prompt:
        turns = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        system = [m for m in turns[:1] if m.role == "system"]
        if not system and self.system:
            system = [Message("system", self.system)]
        return (*system, *self.examples, *(m for m in turns if m.role != "system"))
