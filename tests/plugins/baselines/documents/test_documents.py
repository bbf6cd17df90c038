"""The ``documents`` baseline: its variants, its prompts, and the review of its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from baseline_rows import class_rows, names
from tests.benchmarks.handbook import write_project

from tunesmith.contracts import BaselineTask, BaselineVariant, Finding, Generation
from tunesmith.errors import DataError
from tunesmith.records import Completion, Message, Prompt, Record
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_plugins.baselines.documents import DOCUMENTS, DocumentsOptions, review


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handbook")
    write_project(folder, pages=16)
    return folder


def read_rows(path: Path) -> list[Record]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Completion(source=f"{path.name}:{n}", **row) for n, row in enumerate(rows, 1)]


@dataclass
class Reader(FakeTextModel):
    """A model that answers from the passages of its last message.

    It takes the number in the sentence that has the most words of the question in a row.
    """

    def generate(self, prompts: Sequence[Prompt], *args: Any, **options: Any) -> list[Generation]:
        return [Generation(self.read(prompt), 1, "stop") for prompt in prompts]

    def read(self, prompt: Prompt) -> str:
        assert not isinstance(prompt, str)
        passages, _, question = prompt[-1].text.rpartition("Question: ")
        words = question.split()
        ends = range(2, len(words) + 1)
        things = [" ".join(words[a:b]).strip("?.") for b in ends for a in range(b - 1)]
        sentences = passages.replace("\n", ". ").casefold().split(". ")
        for thing in sorted(things, key=len, reverse=True):
            for sentence in sentences:
                value = re.search(r"\d+", sentence)
                if thing.casefold() in sentence and value:
                    return value.group()
        return "unknown"


def task_of(rows: Sequence[Record], **changes: Any) -> BaselineTask:
    return replace(BaselineTask(train=rows, base=Reader, seed=1), **changes)


def variants_of(task: BaselineTask, folder: Path | None, **options: Any) -> list[BaselineVariant]:
    config = DocumentsOptions(folder=str(folder) if folder else None, **options)
    return [*DOCUMENTS.build(config).variants(task)]


def share_read(variant: BaselineVariant, rows: Sequence[Any]) -> float:
    answers = variant.model.generate([(Message("user", row.prompt),) for row in rows], 8)
    right = [a.text in row.completion.split() for a, row in zip(answers, rows, strict=True)]
    return sum(right) / len(right)


def built(variant: BaselineVariant, question: str, room: int = 8) -> list[str]:
    assert isinstance(variant.model, PromptedModel)
    prompt = variant.model.build_prompt((Message("user", question),), room)
    assert not isinstance(prompt, str)
    return [message.text for message in prompt]


def test_answers_change_with_the_documents(project: Path) -> None:
    """The facts come from the folder: each edition answers its own questions."""
    task = task_of(read_rows(project / "train.jsonl"))
    new, old = read_rows(project / "test.jsonl"), read_rows(project / "old.jsonl")
    shares = []
    for edition in ("edition-1", "edition-2"):
        (variant,) = variants_of(task, project / edition, k=[2], words=[15], shots=[0])
        shares.append((share_read(variant, old), share_read(variant, new)))
    (old_old, old_new), (new_old, new_new) = shares
    assert min(old_old, new_new) > 0.7 and max(old_new, new_old) < 0.1


def test_examples_are_rows_that_the_passages_answer(project: Path) -> None:
    """Three of four pages have changed, and their old answers must not be shown."""
    task = task_of(read_rows(project / "train.jsonl"))
    (variant,) = variants_of(task, project / "edition-2", k=[1], words=[15], shots=[3])
    assert variant.name == "k=1, 15 words, 3 examples"
    messages = built(variant, "Which room do I go to for lockers?")
    answers = messages[2::2]
    assert len(answers) == 3
    for shown, answer in zip(messages[1::2], answers, strict=False):
        assert answer in shown and "Question: " in shown
    strangers = [replace(row, completion="no such value") for row in task.train]  # type: ignore
    assert variants_of(task_of(strangers), project / "edition-2", shots=[3]) == []


def test_the_most_similar_passage_is_next_to_the_question(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Permit\nA parking permit.\n# Other\nParking {prompt}.")
    (variant,) = variants_of(task_of([]), tmp_path, k=[5], shots=[0], words=[20])
    assert built(variant, "parking permit?") == [
        "Answer the question from these passages.\n\nOther\nParking {prompt}.\n\n"
        "Permit\nA parking permit.\n\nQuestion: parking permit?"
    ]
    assert built(variant, "unrelated") == ["unrelated"]


def test_variants_that_differ_in_nothing_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Permit\nA parking permit.")
    task = task_of([])
    found = variants_of(task, tmp_path, k=[3, 1], words=[120, 40], shots=[0])
    assert names(found) == ["k=3, 120 words", "k=1, 120 words"]
    (tmp_path / "a.md").write_text("# Permit\nA parking permit. A second sentence.")
    assert len(variants_of(task, tmp_path, k=[3, 1], words=[10, 40], shots=[0])) == 2
    assert variants_of(task, None) == []
    with pytest.raises(DataError, match="does not exist"):
        variants_of(task, tmp_path / "nowhere")


def test_an_encoder_is_only_used_if_the_run_file_names_one(tmp_path: Path) -> None:
    opened = []

    class Constant:
        def encode(self, texts: Sequence[str], *, progress: object = None) -> Any:
            return np.ones((len(texts), 1), dtype=np.float32)

    def open_encoder() -> Any:
        opened.append(1)
        return Constant()

    (tmp_path / "a.md").write_text("# Permit\nA parking permit.")
    task, options = task_of([], encoder=open_encoder), {"k": [1], "words": [20], "shots": [0]}
    assert names(variants_of(task, tmp_path, **options)) == ["k=1, 20 words"]
    both = variants_of(replace(task, encodes_everywhere=True), tmp_path, **options)
    assert names(both) == [f"k=1, 20 words, {how}" for how in ("both", "lexical", "embeddings")]
    assert not opened, "the encoder is opened with the first question"
    assert "Permit" in built(both[0], "unrelated")[0] and opened
    assert built(both[1], "unrelated") == ["unrelated"]


def test_classes_are_described_and_facts_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Card\nQuestions about a visa card.")
    options: dict[str, Any] = {"k": [1], "words": [20], "shots": [0]}
    few = variants_of(task_of(class_rows(60, 1)), tmp_path, **options)
    ways = ["", ", constrained", ", calibrated"]
    assert names(few) == [f"k=1, 20 words{way}" for way in ways]
    assert "exactly one of these labels" in built(few[0], "visa")[0]
    many = [Completion(source="r", prompt=f"q{n}", completion=f"{n // 3} EUR") for n in range(120)]
    (free,) = variants_of(task_of(many), tmp_path, **options)
    assert built(free, "visa")[0].startswith("Answer in one line with at most 2 words")


def review_of(use: list[str] | None = None, **options: Any) -> list[Finding]:
    baselines = [SimpleNamespace(offer=DOCUMENTS, config=DocumentsOptions(**options))]
    plan: Any = SimpleNamespace(baselines=baselines, baseline_options=SimpleNamespace(use=use))
    return [*review(plan)]


def test_the_folder_is_reviewed_before_the_run(tmp_path: Path) -> None:
    assert review_of() == []
    (missing,) = review_of(use=["documents"])
    assert (missing.level, missing.where) == ("error", "baselines.documents")
    (empty,) = review_of(folder=str(tmp_path))
    assert (empty.level, empty.where) == ("error", "baselines.documents.folder")
    assert "no readable documents" in empty.message and ".md" in empty.hint
    (tmp_path / "a.md").write_text("A page.")
    assert review_of(folder=str(tmp_path)) == []
    (tmp_path / "b.png").write_bytes(b"x")
    (skipped,) = review_of(folder=str(tmp_path))
    assert skipped.level == "warning" and skipped.message.endswith(": b.png")
