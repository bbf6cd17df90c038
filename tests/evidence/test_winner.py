"""The winner of a run: saved with its rows, and opened again without the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fixtures.python.bench import (
    CITIES,
    ZERO_SHOT,
    Bench,
    bench_plugin,
    catalog_of,
    offering,
    rows,
)
from word_encoder import WORDS

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.errors import IntegrityError, UsageError
from tunesmith.execution.run_data import load_data
from tunesmith.options import DataPath, Options
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    TextPart,
    ToolCall,
    UnpairedPreference,
    last_exchange,
)
from tunesmith.storage import RunFolder, verify_folder
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.winner import (
    _copy_files,
    _read_options,
    discard_winner,
    has_probabilities,
    open_winner,
    read_records,
    save_winner,
    write_records,
)
from tunesmith_plugins.baselines.embedding import EMBEDDING
from tunesmith_plugins.baselines.linear import LINEAR
from tunesmith_plugins.verdict import VERDICT

USER = Message("user", "Hello \ud800\u2028")
RECORDS: list[Record] = [
    Text(source="a:1", text="plain"),
    Completion(source="a:2", prompt="p", completion="c", group="g", slices=(("s", "1"),)),
    Chat(
        source="a:3",
        messages=(
            Message("user", "x", tools=('{"name": "f"}',)),
            Message("assistant", "", tool_calls=(ToolCall("f", "{}", "1"),), reasoning="r"),
            Message("tool", "1", name="f", tool_call_id="1"),
            Message("assistant", (TextPart("a", 0.0), TextPart("b")), weight=0.5),
        ),
    ),
    Preference(source="a:4", prompt=(USER,), chosen="c", rejected="r"),
    UnpairedPreference(source="a:5", prompt=(USER,), completion="c", label=False),
]


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_records(tmp_path / "rows", RECORDS)
    assert read_records(tmp_path / "rows") == RECORDS
    assert (tmp_path / "rows").stat().st_mode & 0o077 == 0


class FileOptions(Options):
    """Options of the ``book`` baseline."""

    file: DataPath = "answers.json"
    folder: DataPath | None = None


class Book:
    """A baseline that answers with a file of the user, after a variant that knows nothing."""

    def __init__(self, options: FileOptions) -> None:
        self.options = options

    def variants(self, task: BaselineTask) -> list[BaselineVariant]:
        words = json.loads(Path(self.options.file).read_text())
        known = {r.prompt[0]: words[r.completion] for r in task.train}  # type: ignore[attr-defined]
        return [
            BaselineVariant(name="blank", model=FakeTextModel()),
            BaselineVariant(name=self.options.file, model=FakeTextModel(answers=ByNumber(known))),
        ]


class ByNumber(dict[str, str]):
    """Answers by the first character of a prompt."""

    def get(self, prompt: Any, default: Any = "") -> Any:
        return super().get(str(prompt)[0], default)


BOOK = replace(ZERO_SHOT, name="book", config=FileOptions, build=Book, cost=90, needs_model=False)


def bench_of(root: Path) -> Bench:
    bench = bench_plugin()
    del bench.tunesmith_verdict
    catalog = catalog_of(
        bench=bench,
        verdict=VERDICT,
        more=offering("baselines", BOOK, LINEAR, EMBEDDING),
        encoder=offering("encoders", WORDS),
    )
    return Bench(root, catalog)


def read_answers(folder: Path, baseline: str) -> list[str]:
    path = folder / "evaluations" / f"{baseline}.right.jsonl"
    return [json.loads(line)["output"] for line in path.read_text().splitlines()]


def prompts_of_test_rows(bench: Bench, **changes: Any) -> list[Any]:
    _, parts = load_data(bench.plan(**changes))
    return [last_exchange(record)[0] for record in parts.test]


@pytest.mark.parametrize("baseline", ["linear", "embedding", "book"])
def test_a_winner_answers_as_in_the_run(tmp_path: Path, baseline: str) -> None:
    """Also after the data and the files of its options are gone."""
    bench = bench_of(tmp_path)
    words = {city: city for city in CITIES}
    (tmp_path / "answers.json").write_text(json.dumps(words))
    bench.write_rows(rows(600))
    changes: dict[str, Any] = {
        "baselines": {"use": [baseline]},
        "verdict": {"max_label_noise": 1.0, "margin": 0.1},
    }
    report = bench.run(**changes)
    verdict = report.finished.verdict  # type: ignore[union-attr]
    assert (verdict["baseline"], verdict["winner"]) == (baseline, "winner"), verdict
    prompts, plan = prompts_of_test_rows(bench, **changes), bench.plan(**changes)
    for name in ("rows.jsonl", "answers.json"):
        (tmp_path / name).unlink()
    run = RunFolder(tmp_path / "out")
    assert verify_folder(run.path / "winner") == []
    name, model = open_winner(run, plan)
    assert name.startswith(baseline)
    answers = [answer.text for answer in model.generate(prompts, 8)]
    assert answers == read_answers(run.path, baseline) and len(set(answers)) == len(CITIES)


def test_a_folder_is_copied_without_links_and_hidden_files(tmp_path: Path) -> None:
    book = tmp_path / "book"
    for name in ("a.md", "part/b.md", ".git/c.md"):
        (book / name).parent.mkdir(parents=True, exist_ok=True)
        (book / name).write_text(name)
    (book / "link.md").symlink_to(tmp_path / "book" / "a.md")
    (book / "up").symlink_to(tmp_path)
    target = tmp_path / "winner"
    copied = _copy_files(FileOptions(file="unknown:name", folder=str(book)), target)
    assert copied == {"file": {}, "folder": {str(book): "files/folder/0/book"}}
    found = sorted(path for path in (target / "files").rglob("*") if path.is_file())
    assert [path.read_text() for path in found] == ["a.md", "part/b.md"]
    read = _read_options(BOOK, {"file": "unknown:name", "folder": str(book)}, copied, target)
    assert read == FileOptions(file="unknown:name", folder=str(target / "files/folder/0/book"))
    assert _copy_files(FileOptions(), tmp_path) == {"file": {}}


def test_a_damaged_winner_is_refused(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench.write_rows(rows(600))
    changes: dict[str, Any] = {
        "baselines": {"use": ["linear"]}, "verdict": {"max_label_noise": 1.0, "margin": 0.1}
    }  # fmt: skip
    bench.run(**changes)
    run, plan = RunFolder(tmp_path / "out"), bench.plan(**changes)
    rows_file = run.path / "winner" / "train.jsonl"
    rows_file.write_text(rows_file.read_text().replace("Paris", "Paros"))
    assert not has_probabilities(run), "linear is a classifier"
    with pytest.raises(IntegrityError, match=r"train\.jsonl"):
        open_winner(run, plan)
    discard_winner(run.path)
    with pytest.raises(UsageError, match="no winner"):
        open_winner(run, plan)


def test_rows_that_only_a_plugin_can_read_are_not_saved(tmp_path: Path) -> None:
    evidence: Any = SimpleNamespace(
        baselines=[SimpleNamespace(baseline="linear")], train=[Record(source="1")], folder=tmp_path
    )
    assert save_winner(evidence, "linear") == ""
    assert not (tmp_path / "winner").exists()
