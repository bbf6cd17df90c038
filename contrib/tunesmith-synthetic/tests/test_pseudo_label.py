"""The ``pseudo-label`` generator: labels, calibration, agreement, and rows for a person."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows, write_lines
from generation import invoke, read_lines, request_of, write_generation

from tunesmith import api
from tunesmith.contracts import BaselineTask, BaselineVariant, SkippedRow
from tunesmith.errors import ConfigError
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.records import Completion, Message, Record
from tunesmith_evidence.classify.function_model import FunctionModel
from tunesmith_synthetic.generators.pool import read_pool
from tunesmith_synthetic.generators.pseudo_label import (
    TO_LABEL,
    PseudoLabel,
    PseudoLabelOptions,
    label_with_baseline,
)

TRAIN = [
    Completion(source=f"train:{n}", prompt=f"text {n} of {n * n}", completion="ab"[n % 2])
    for n in range(200)
]


def parity(texts: Sequence[str], wrong: float, salt: str) -> list[tuple[str, float]]:
    """Answer by the number in a text; a share is wrong, with a lower score."""
    found = []
    for text in texts:
        rng = np.random.default_rng([len(salt), *text.encode()])
        right = "ab"[int(text.split()[1]) % 2]
        sure = float(rng.normal(2.0, 1.0))
        is_wrong = rng.random() < wrong
        found.append(("ab"[right == "a"], sure - 2) if is_wrong else (right, sure))
    return found


def solve(name: str, train: Sequence[Record]) -> Iterable[BaselineVariant]:
    """Return labelers that are wrong in 5, 10 and 40 % of the rows."""
    shares = {"good": 0.05, "fair": 0.1, "poor": 0.4}
    model = FunctionModel(lambda texts: parity(texts, shares[name], name))
    yield BaselineVariant(name="", model=model)


def make_task(folder: Path, train: Sequence[Record] = TRAIN, count: int = 1000) -> GeneratorTask:
    learned: Any = BaselineTask(train=train, base=lambda: None, seed=0)  # type: ignore[arg-type,return-value]
    return GeneratorTask(task=learned, count=count, folder=folder, solve=solve)


def write_pool(folder: Path, count: int = 300) -> str:
    path = folder / "pool.txt"
    path.write_text("".join(f"text {n} new\n" for n in range(1000, 1000 + count)))
    return str(path)


def run(folder: Path, **options: Any) -> tuple[list[GeneratedRow], list[SkippedRow]]:
    generator = PseudoLabel(PseudoLabelOptions(pool=write_pool(folder), **options))
    found = [*generator.generate(make_task(folder))]
    return (
        [row for row in found if isinstance(row, GeneratedRow)],
        [row for row in found if isinstance(row, SkippedRow)],
    )


def accuracy(rows: list[GeneratedRow]) -> float:
    records: list[Any] = [row.record for row in rows]
    return float(np.mean([r.completion == "ab"[int(r.prompt.split()[1]) % 2] for r in records]))


def test_the_most_accurate_labeler_labels(tmp_path: Path) -> None:
    rows, skipped = run(tmp_path, labelers=["poor", "fair", "good"], min_agreement=0.0)
    assert {row.model for row in rows} == {"good"} and len(rows) == 300 and not skipped
    assert 0.9 <= accuracy(rows) <= 0.99


def test_agreement_and_confidence_raise_the_accuracy(tmp_path: Path) -> None:
    alone, _ = run(tmp_path, labelers=["fair"])
    agreed, disputed = run(tmp_path, labelers=["fair", "good"], min_agreement=1.0)
    sure, unsure = run(tmp_path, labelers=["fair"], min_confidence=0.95)
    assert accuracy(agreed) > accuracy(alone) + 0.03 and accuracy(sure) > accuracy(alone) + 0.03
    assert {row.cause for row in disputed} == {"the labelers disagree"}
    assert {row.cause for row in unsure} == {"the confidence is too low"}
    assert len(agreed) + len(disputed) == len(sure) + len(unsure) == 300


def test_the_confidence_is_the_share_of_right_labels(tmp_path: Path) -> None:
    pool = read_pool(Path(write_pool(tmp_path, 2000)), 2000, 0)
    (labels,) = label_with_baseline("fair", make_task(tmp_path), pool)
    numbers = [int(record.prompt.split()[1]) for record in pool]  # type: ignore[union-attr]
    right = [a == "ab"[n % 2] for a, n in zip(labels.answers, numbers, strict=True)]
    sure = np.array(labels.confidences)
    for low, high in ((0.5, 0.85), (0.85, 0.95), (0.95, 1.0)):
        chosen = (sure >= low) & (sure < high)
        assert chosen.sum() > 50
        assert abs(np.mean(np.array(right)[chosen]) - sure[chosen].mean()) < 0.1


def test_it_is_calibrated_out_of_fold(tmp_path: Path) -> None:
    """A labeler that knows its own rows by heart is not trusted because of that."""

    def memorize(name: str, train: Sequence[Record]) -> Iterable[BaselineVariant]:
        known: dict[str, str] = {r.prompt: r.completion for r in train}  # type: ignore[attr-defined]
        answer = FunctionModel(lambda texts: [(known.get(t, "a"), 1.0) for t in texts])
        yield BaselineVariant(name="", model=answer)

    task = make_task(tmp_path)
    object.__setattr__(task, "solve", memorize)
    (labels,) = label_with_baseline("x", task, read_pool(Path(write_pool(tmp_path)), 300, 0))
    assert abs(labels.accuracy - 0.5) < 0.1 and abs(labels.confidences[0] - 0.5) < 0.1


def test_disputed_rows_are_asked_in_the_form_of_annotate(tmp_path: Path) -> None:
    run(tmp_path, labelers=["good", "fair"], ask=7)
    rows = read_lines(tmp_path / TO_LABEL)
    assert len(rows) == 7 and len({row["pair"] for row in rows}) == 7
    for row in rows:
        assert {row["left"], row["right"]} == {"a", "b"}
    text = (tmp_path / TO_LABEL).read_text().replace('"choice": ""', '"choice": "left"', 3)
    (tmp_path / TO_LABEL).write_text(text)
    done = invoke(
        "data", "annotate", "--read", tmp_path / TO_LABEL, "--out", tmp_path / "labeled.jsonl"
    )
    assert done.exit_code == 0, done.output
    labeled = read_lines(tmp_path / "labeled.jsonl")
    assert [row["chosen"] for row in labeled] == [row["left"] for row in rows[:3]]


def test_few_rows_are_refused(tmp_path: Path) -> None:
    generator = PseudoLabel(PseudoLabelOptions(pool=write_pool(tmp_path), labelers=["good"]))
    (skipped,) = generator.generate(make_task(tmp_path, TRAIN[:9]))
    assert isinstance(skipped, SkippedRow) and "fewer than 10" in skipped.cause


def test_a_real_baseline_labels_the_pool(project: Path) -> None:
    pool = make_rows(300, 40)
    (project / "pool.jsonl").write_text(
        "".join(json.dumps({"prompt": r["prompt"]}) + "\n" for r in pool)
    )
    generator = {"use": "pseudo-label", "pool": "pool.jsonl", "labelers": ["linear"]}
    done = invoke("data", "generate", write_generation(project, generator, share=0.9))
    assert done.exit_code == 0, done.output
    expected = {row["prompt"]: row["completion"] for row in pool}
    rows = read_lines(project / "synthetic" / "synthetic.jsonl")
    right = [expected[row["prompt"]] == row["completion"] for row in rows]
    assert len(rows) > 20 and np.mean(right) > 0.9
    assert {row["synthetic_model"].split()[0] for row in rows} == {"linear"}


def test_an_unknown_labeler_is_named(project: Path) -> None:
    (project / "pool.txt").write_text("a text\n")
    generator = {"use": "pseudo-label", "pool": "pool.txt", "labelers": ["linaer"]}
    done = invoke("data", "generate", write_generation(project, generator))
    assert done.exit_code == 2 and 'did you mean "linear"?' in done.output
    with pytest.raises(ConfigError, match="set `labelers` to at least one baseline"):
        request_of(project, {**generator, "labelers": []})


def test_the_tuned_model_of_a_run_labels_the_pool(project: Path) -> None:
    """Its confidence is that of the run's evaluator `review`."""
    write_lines(project / "rows.jsonl", make_rows(0, 120))
    text = (project / "run.toml").read_text()
    review = '\n[[evaluators]]\nuse = "review"\n'
    (project / "run.toml").write_text(f"{text}{review}\n[split]\nvalidation_size = 60\n")
    done = invoke("run", project / "run.toml", "--out", "tuned")
    assert done.exit_code == 0, done.output
    pool = make_rows(300, 40)
    (project / "pool.txt").write_text("".join(f"{row['prompt']}\n" for row in pool))
    generator = {"use": "pseudo-label", "pool": "pool.txt", "run": "tuned", "labelers": []}
    done = invoke("data", "generate", write_generation(project, generator, share=0.9))
    assert done.exit_code == 0, done.output
    rows = read_lines(project / "synthetic" / "synthetic.jsonl")
    assert rows and {row["synthetic_model"] for row in rows} == {"run tuned"}
    model = api.open_models(*api.load_run(project / "tuned")[:2])["tuned"]
    given = model.generate([(Message("user", rows[0]["prompt"]),)], 16)
    assert given[0].text.strip() == rows[0]["completion"]
    assert 0 < float(json.loads(rows[0]["synthetic_details"])["confidence"]) < 1


def test_choices_of_a_person_are_kept(tmp_path: Path) -> None:
    run(tmp_path, labelers=["good", "fair"], ask=7)
    path = tmp_path / TO_LABEL
    path.write_text(path.read_text().replace('"choice": ""', '"choice": "left"', 3))
    decided = read_lines(path)[:3]
    run(tmp_path, labelers=["good", "fair"], ask=2)
    rows = read_lines(path)
    assert [row for row in rows if row["choice"]] == decided
    run(tmp_path, labelers=["fair", "good"], ask=7)
    assert len({row["pair"] for row in read_lines(path)}) == len(read_lines(path))


def test_test_rows_in_the_pool_are_neither_labeled_nor_asked(project: Path) -> None:
    """A label of a person would make a test row a training row."""
    tested = make_rows(100, 30)
    pool = [*tested, *make_rows(300, 40)]
    (project / "pool.txt").write_text("".join(f"{row['prompt']}\n" for row in pool))
    generator = {
        "use": "pseudo-label", "pool": "pool.txt", "labelers": ["linear", "majority"],
        "min_agreement": 0.0, "ask": 1000,
    }  # fmt: skip
    done = invoke("data", "generate", write_generation(project, generator, share=0.9))
    assert done.exit_code == 0, done.output
    asked = {row["prompt"][-1]["content"] for row in read_lines(project / "synthetic" / TO_LABEL)}
    kept = {row["prompt"] for row in read_lines(project / "synthetic" / "synthetic.jsonl")}
    assert asked and kept and not (asked | kept) & {row["prompt"] for row in tested}


def test_rows_of_a_group_are_calibrated_together(tmp_path: Path) -> None:
    """A labeler that knows a group by heart is not trusted because of its other rows."""
    train = [replace(r, group=f"{n // 2}") for n, r in enumerate(TRAIN)]  # type: ignore[type-var]

    def memorize(name: str, rows: Sequence[Record]) -> Iterable[BaselineVariant]:
        known = {record.group: record.completion for record in rows}  # type: ignore[attr-defined]
        groups = {record.prompt: record.group for record in train}
        answer = FunctionModel(
            lambda asked: [(known.get(groups.get(text), "none"), 1.0) for text in asked]
        )
        yield BaselineVariant(name="", model=answer)

    train = [replace(r, completion="ab"[int(r.group or 0) % 2]) for r in train]
    task = make_task(tmp_path, train)
    object.__setattr__(task, "solve", memorize)
    (labels,) = label_with_baseline("x", task, read_pool(Path(write_pool(tmp_path)), 9, 0))
    assert labels.accuracy == 0
