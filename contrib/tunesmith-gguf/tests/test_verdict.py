"""``tunesmith verdict`` on a GGUF file gives the numbers of the run that trained the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith.options import from_table
from tunesmith_gguf.exporter import find_file
from tunesmith_gguf.offer import GGUF
from tunesmith_gguf.options import GgufOptions
from tunesmith_torch.export.export_run import Export, TrainedModel, export_run

SET = {"baselines.use": ["majority"], "run.side_effects": True}
WORDS = {"refund": "money", "invoice": "papers", "delivery": "parcel"}


def write_rows(path: Path, numbers: range) -> Path:
    rows = [
        {"prompt": f"my {word} number {n * 7919} is late", "completion": WORDS[word]}
        for n in numbers
        for word in [sorted(WORDS)[n % 3]]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_numbers_of_the_run(trained: TrainedModel, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", range(60))
    test = write_rows(tmp_path / "test.jsonl", range(500, 530))
    options = from_table(GgufOptions, {"quantize": "f32", "pre_tokenizer": "smollm"})
    export_run(trained, Export.from_offer(GGUF, options), tmp_path / "out")
    judged = [
        tunesmith.verdict(str(trained.base), tuned, train, test, set=SET, out=tmp_path / name)
        for name, tuned in (("a", trained.artifact), ("b", find_file(tmp_path / "out")))
    ]
    adapter, gguf = (
        {(e.model, e.metric): e.value for e in run.report.measured.values()} for run in judged
    )
    assert gguf.keys() == adapter.keys() and ("tuned", "general-skills") in gguf
    assert gguf == pytest.approx(adapter, abs=1e-3)
    general = gguf["tuned", "general-loss"], gguf["base", "general-loss"]
    assert general[0] != pytest.approx(general[1], abs=1e-2)
