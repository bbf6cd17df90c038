"""Forgetting: the rise of the loss on general texts, and the verdict about it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tunesmith
from tunesmith.contracts import RunContext
from tunesmith.errors import DataError
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_cli.app import app
from tunesmith_plugins.evaluators.forgetting import FORGETTING
from tunesmith_torch.testing.tiny_model import save_tiny_model

WORDS = [
    "card",
    "refund",
    "capital",
    "delivery",
    "invoice",
    "ticket",
    "answer",
    "question",
    "Paris",
    "Rome",
    "seven",
    "eight",
]


def write_texts(path: Path, count: int) -> str:
    """Write texts in which the next word mostly follows from the last one."""
    rng, lines = random.Random(str(path.name)), []
    for _ in range(count):
        position, words = rng.randrange(len(WORDS)), []
        for _ in range(12):
            words.append(WORDS[position])
            position = (position + rng.choice([1, 1, 1, 5])) % len(WORDS)
        lines.append(json.dumps({"text": " ".join(words)}) + "\n")
    path.write_text("".join(lines))
    return str(path)


def run_context(base: FakeTextModel, *, trained: bool = True) -> RunContext:
    artifacts = {"": Path("tuned")} if trained else {}
    return RunContext(model=Path("b"), device="cpu", artifacts=artifacts, open=lambda path: base)


def models(rises: Sequence[float], *tokens: int) -> tuple[FakeTextModel, FakeTextModel]:
    """Return a base and a tuned model of texts t0, t1, ... whose loss rises."""
    counts = tokens or (4,) * len(rises)
    base = {f"t{n}": [-2.0] * count for n, count in enumerate(counts)}
    tuned = {f"t{n}": [-2.0 - rise] * counts[n] for n, rise in enumerate(rises)}
    return FakeTextModel(logprobs=base), FakeTextModel(logprobs=tuned)


def measure(folder: Path, rises: Sequence[float], *tokens: int, **options: Any) -> Any:
    texts = folder / "texts.jsonl"
    texts.write_text("".join(f'{{"text": "t{n}"}}\n' for n in range(len(rises))))
    base, tuned = models(rises, *tokens)
    evaluator = FORGETTING.build(FORGETTING.config(texts=str(texts), **options))
    [measured] = evaluator.compare(tuned, [], run_context(base))  # type: ignore[attr-defined]
    return measured


def test_the_rise_by_hand(tmp_path: Path) -> None:
    measured = measure(tmp_path, [0.5, -0.25, 0.0], 2, 4, 6)
    assert measured.values == pytest.approx((0.5, -0.25, 0.0))
    assert measured.weights == (2, 4, 6)
    assert measured.details["value"] == pytest.approx(0.0)
    assert [record.source[-1] for record in measured.records] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("rise", "spread", "outcome", "words"),
    [
        (0.2, 0.1, "harmed", "forgets: the loss on 40 general texts changed by +0.1"),
        (0.0, 0.05, "not harmed", "does not forget: "),
        (0.05, 0.2, "unclear", "not enough texts: "),
    ],
)
def test_verdicts(tmp_path: Path, rise: float, spread: float, outcome: str, words: str) -> None:
    rng = random.Random(3)
    measured = measure(tmp_path, [rng.gauss(rise, spread) for _ in range(40)])
    assert measured.details["outcome"] == outcome
    assert measured.details["holds"] is (outcome == "not harmed")
    assert measured.details["finding"].startswith(words)
    wider = measure(tmp_path, [rng.gauss(rise, spread) for _ in range(40)], margin=0.5)
    assert wider.details["outcome"] == "not harmed"


def test_nothing_is_measured_before_a_model_is_tuned(tmp_path: Path) -> None:
    evaluator: Any = FORGETTING.build(FORGETTING.config(texts=write_texts(tmp_path / "t", 3)))
    base = FakeTextModel()
    assert evaluator.compare(base, [], run_context(base, trained=False)) == []
    missing = FORGETTING.config(texts=str(tmp_path / "none"))
    with pytest.raises(DataError, match="No such file"):
        FORGETTING.build(missing).compare(base, [], run_context(base, trained=False))


RUN = """
[model]
base = "model"
[data]
train = "rows.jsonl"
test_size = 8
[technique]
use = "full"
max_steps = {steps}
learning_rate = {rate}
batch_size = 8
schedule.type = "constant"
[baselines]
use = ["zero-shot"]
[[evaluators]]
use = "loss"
[[evaluators]]
use = "forgetting"
texts = "{texts}"
"""


def run_narrow(folder: Path, model: Path, texts: str, name: str, steps: int, rate: str) -> Any:
    """Train on a narrow task and return the measurement of forgetting, and the run folder."""
    rows = [{"prompt": f"ticket {n}?", "completion": f"the invoice {n % 5}"} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RUN.format(steps=steps, rate=rate, texts=texts).replace('"model"', f'"{model}"')
    (folder / f"{name}.toml").write_text(text)
    report = tunesmith.run(folder / f"{name}.toml", out=folder / name).report
    found = [e for e in report.measured.values() if e.metric == "forgetting"]
    assert [event.model for event in found] == ["tuned"]
    return found[0]


def test_a_run_reports_it(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    event = run_narrow(tmp_path, model, write_texts(tmp_path / "t.jsonl", 12), "out", 1, "1e-5")
    assert event.n == 12 and event.details["outcome"] == "not harmed"
    printed = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert "forgetting: does not forget: the loss on 12" in printed.output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "does not forget: the loss on 12" in page


def test_a_file_that_cannot_be_used_is_refused_before_training(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    with pytest.raises(tunesmith.TunesmithError, match=r"evaluators.forgetting.texts: .*No such"):
        run_narrow(tmp_path, model, "none.jsonl", "out", 1, "1e-5")


@pytest.mark.long
def test_a_run_that_forgets_is_found_and_another_passes(tmp_path: Path) -> None:
    """A model that knows general texts is trained on a narrow task, too much and a little."""
    tiny = save_tiny_model(tmp_path / "tiny")
    (tmp_path / "know.toml").write_text(
        f'[model]\nbase = "{tiny}"\n[data]\nuse = "jsonl"\ntest_size = 20\n'
        f'train = "{write_texts(tmp_path / "general.jsonl", 1500)}"\n[technique]\nuse = "full"\n'
        "learning_rate = 3e-3\nepochs = 4.0\nbatch_size = 16\n[baselines]\nuse = []\n"
    )
    known = tunesmith.run(tmp_path / "know.toml", out=tmp_path / "know")
    model = tmp_path / "know" / known.report.training_finished[""].artifact
    texts = write_texts(tmp_path / "texts.jsonl", 250)
    careful = run_narrow(tmp_path, model, texts, "careful", 4, "1e-6")
    assert careful.n == 250 and careful.details["outcome"] == "not harmed"
    much = run_narrow(tmp_path, model, texts, "much", 150, "3e-3")
    assert much.details["outcome"] == "harmed" and much.value > 0.3
