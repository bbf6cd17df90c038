"""Rows with images, and a small training over them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pictures import ask, question, read_images, save_pictures
from tiny_vlm import save_tiny_vlm

from tunesmith.contracts import Job
from tunesmith.events import Event
from tunesmith.options import from_table
from tunesmith.records import Chat, Message, Record
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_vision.features import FeatureTable, ImageEncoder, as_record
from tunesmith_vision.options import VisionOptions
from tunesmith_vision.technique import Vision, open_table
from tunesmith_vision.vlm import split_model

FP32 = {"precision": "fp32", "batch_size": 4, "epochs": 4.0, "learning_rate": 1e-2}


def temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-vision-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def vlm_folder(family: str) -> Path:
    """Return a tiny vision-language model, saved once."""
    return save_tiny_vlm(temporary() / family, family)


@cache
def split_folder(family: str = "llava") -> Path:
    """Return a tiny model that is divided already."""
    out = temporary() / "split"
    split_model(vlm_folder(family), out)
    return out


@cache
def pictures() -> Path:
    return save_pictures(temporary())


def rows() -> list[Record]:
    """Return conversations with one image, several images, several turns, and none."""
    images = read_images(pictures())
    found: list[Record] = [
        ask(f"{n} *Which?", name, images[name], source=f"f:{n}")
        for n in range(3)
        for name in ("red", "green", "blue")
    ]
    found.append(ask("* or *?", "two", images["red"], images["blue"], source="f:20"))
    found.append(Chat(source="f:21", messages=two_turns()))
    found.append(ask("Who?", "nobody", source="f:22"))
    return found


def two_turns() -> tuple[Message, ...]:
    images = read_images(pictures())
    return (
        question("First *.", images["gray"]),
        Message("assistant", "Gray."),
        question("*And * again?", images["red"], images["gray"]),
        Message("assistant", "Red and gray."),
    )


def options(**table: Any) -> VisionOptions:
    return from_table(VisionOptions, {**FP32, **table})


def make_job(
    config: VisionOptions, out: Path, records: Any = None, model: Path | None = None, **fields: Any
) -> Job[Any]:
    given: dict[str, Any] = {
        "config": config, "model": model or split_folder(), "train": records or rows(),
        "validation": (), "out": out, "seed": 3, "device": "cpu", "technique": "vision",
        "checkpoints": Checkpoints(out / "checkpoints"), "emit": lambda event: None,
    }  # fmt: skip
    return Job(**{**given, **fields})


def train(out: Path, records: Any = None, model: Path | None = None, **table: Any) -> Path:
    """Train in ``out``, and return the artifact."""
    out.mkdir()
    config = options(**table)
    return Vision(config).train(make_job(config, out, records, model)).path


def collect(out: Path, records: Any = None, model: Path | None = None, **table: Any) -> list[Event]:
    """Train in ``out``, and return the events."""
    out.mkdir()
    events: list[Event] = []
    config = options(**table)
    Vision(config).train(make_job(config, out, records, model, emit=events.append))
    return events


def make_table(model: Path | None = None) -> FeatureTable:
    return open_table(model or split_folder(), options())


def image_template(table: FeatureTable, model: Path | None = None) -> Template:
    tokenizer = load_tokenizer(model or split_folder())
    return ImageEncoder.add_to(Template.from_options(tokenizer, options()), table)


def tokenize(records: Any, table: FeatureTable, limit: int = 500, model: Path | None = None) -> Any:
    signed = [as_record(record, table) for record in records]
    return image_template(table, model).tokenize_records(signed, limit)
