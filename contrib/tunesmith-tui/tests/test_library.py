"""The list of runs: new ones, filter, groups, and the tree of runs that continue each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import sample_runs

from tunesmith_tui.library import GROUPS, Library, Listed


@pytest.fixture
def library(runs: Path) -> Library:
    library = Library([runs])
    library.scan()
    library.advance(60)
    return library


def names(listed: list[Listed]) -> list[str]:
    return [item.run.path.name.split("_")[-2:][0] for item in listed]


def test_the_newest_run_is_first(library: Library) -> None:
    trials = ["trial-002", "trial-001", "trial-000"]
    assert names(library.arrange()) == ["mails", "tickets-2", "tickets", *trials]


@pytest.mark.parametrize(
    "text, found",
    [
        ("mails", ["mails"]),
        ("TICKETS fine-tune", ["tickets-2", "tickets"]),
        ("unfinished", ["mails"]),
        ("smol c3d4", ["tickets-2"]),
        ("nothing", []),
    ],
)
def test_a_filter_keeps_runs_with_all_words(library: Library, text: str, found: list[str]) -> None:
    assert names(library.arrange(text)) == found


@pytest.mark.parametrize("group_by", GROUPS)
def test_groups_keep_every_run_once_and_together(library: Library, group_by: str) -> None:
    listed = library.arrange(group_by=group_by)
    assert sorted(names(listed)) == sorted(names(library.arrange()))
    groups = [item.group for item in listed]
    assert len(set(groups)) == sum(a != b for a, b in zip(groups, ["\0", *groups], strict=False))


def test_a_run_is_below_the_one_that_it_continues(library: Library) -> None:
    listed = library.arrange(tree=True)
    places = dict(zip(names(listed), [item.depth for item in listed], strict=True))
    assert places["tickets"] == 0 and places["tickets-2"] == 1
    assert names(listed)[names(listed).index("tickets") + 1] == "tickets-2"
    assert len(listed) == 6 and "tickets-2" in names(library.arrange("tickets-2", tree=True))


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("north/run", "south/run", "tickets"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "lock").touch()
        (tmp_path / folder / "events.jsonl").touch()
    library = Library([tmp_path])
    library.scan()
    assert sorted(run.name for run in library.runs.values()) == [
        "north/run",
        "south/run",
        "tickets",
    ]


def test_a_cycle_hides_no_run(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        plan = sample_runs.make_plan(lineage={"parent": str(tmp_path / other)})
        sample_runs.write_run(tmp_path, name, sample_runs.list_events(plan=plan))
    library = Library([tmp_path])
    library.scan()
    library.advance(60)
    assert len(library.arrange(tree=True)) == 2


def test_new_runs_are_found_and_growth_is_noticed(library: Library, runs: Path) -> None:
    assert not library.scan() and not library.check()
    path = sample_runs.write_run(runs, "new", sample_runs.list_events("new", done=3, ends=False))
    assert library.scan() and library.left_share > 0
    assert library.advance(60) and library.left_share == 0
    run = library.runs[path]
    before = run.lines
    sample_runs.write_lines(path / "events.jsonl", sample_runs.list_events("new"), "a")
    assert library.check() and library.advance(60)
    assert run.lines > before and run.status == "ok" and not library.check()


def test_a_root_may_be_a_run_a_search_or_missing(runs: Path) -> None:
    run = next(runs.glob("*mails*"))
    library = Library([run, runs / "search", runs / "missing"])
    library.scan()
    assert len(library.runs) == 4
    trial = library.runs[runs / "search" / "trial-001"]
    assert [t.path.name for t in library.find_search(trial)] == [
        "trial-000", "trial-001", "trial-002",
    ]  # fmt: skip
    assert library.find_search(library.runs[run]) == []


def test_reading_keeps_to_its_time(library: Library, runs: Path) -> None:
    late = Library([runs])
    late.scan()
    late.advance(0)
    assert sum(run.lines > 0 for run in late.runs.values()) == 1
