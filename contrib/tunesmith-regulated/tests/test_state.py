"""The state after a log, the data files of a run file, and the commands of the group."""

from __future__ import annotations

from dataclasses import replace

from project import Project

from tunesmith_regulated import PLUGIN, commands
from tunesmith_regulated.reporter import digest_inputs
from tunesmith_regulated.signing import digest_file
from tunesmith_regulated.verify import check_run, replay


def test_the_last_entry_about_a_run_or_file_counts(project: Project) -> None:
    entries = project.entries()
    state = replay(entries)
    assert set(state.signatures) == {"runs/first", "runs/second"} and all(state.signatures.values())
    assert set(state.inputs) == {"rows.jsonl", "test.jsonl"}
    started = next(e for e in entries if e.action == "start")
    changed = {"rows.jsonl": {"key": "data.train", "sha256": "0"}}
    again = replace(started, facts={**started.facts, "inputs": changed})
    state = replay([*entries, again])
    assert state.signatures["runs/first"] == "" and state.inputs["rows.jsonl"] == "0"
    assert state.inputs["test.jsonl"] == digest_file(project.folder / "test.jsonl")
    (problem,) = check_run(project.policy, [*entries, again], project.folder / "runs" / "first")
    assert "has not ended" in problem


def test_folders_and_patterns_stand_for_their_files(project: Project) -> None:
    folder = project.folder / "documents" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.md").write_text("a")
    plan = {
        "data": {"train": str(project.folder / "*.jsonl"), "rows": 3},
        "baselines": {"documents": {"folder": str(folder.parent)}},
        "evaluators": [{"file": str(project.folder / "none.json"), "word": "rows.jsonl"}],
        "model": {"base": str(project.folder / "base")},
    }
    found = {path.name: facts["key"] for path, facts in digest_inputs(plan)}
    assert found == {
        "rows.jsonl": "data.train",
        "test.jsonl": "data.train",
        "a.md": "baselines.documents.folder",
    }


def test_the_offered_commands_are_those_of_the_module() -> None:
    offers = PLUGIN.tunesmith_commands()
    assert [offer.name for offer in offers] == [
        f"audit {name}" for name in ("verify", "show", "promote", "trace", "due")
    ]
    for offer in offers:
        assert offer.load() is vars(commands)[offer.name.partition(" ")[2]]
