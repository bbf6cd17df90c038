"""Find runs below some folders, keep them up to date, and put them in order."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.storage import find_runs
from tunesmith_tui.run_state import RunState


@dataclass(frozen=True)
class Listed:
    """A run in the list: its group and its depth in the tree of runs that continue each other."""

    run: RunState
    group: str = ""
    depth: int = 0


class Library:
    """All runs below some folders."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots
        self.runs: dict[Path, RunState] = {}

    def scan(self) -> bool:
        """Look for new runs. Return True if there are some."""
        count = len(self.runs)
        for root in self.roots:
            is_run = (root / "lock").is_file() and (root / "events.jsonl").is_file()
            for path in [root] if is_run else find_runs(root):
                if path not in self.runs:
                    self.runs[path] = RunState(path)
                    self.runs[path].check()
        same_name = Counter(path.name for path in self.runs)
        for path, run in self.runs.items():
            if same_name[path.name] > 1:
                run.folder_name = f"{path.parent.name}/{path.name}"
        return len(self.runs) > count

    def check(self) -> bool:
        """Look which logs have grown. Return True if any run changed."""
        return any([run.check() for run in self.runs.values()])

    def advance(self, seconds: float, first: RunState | None = None) -> bool:
        """Read logs for this long, ``first`` before those that changed last.

        Returns:
            True if there was anything to read.
        """
        deadline = time.monotonic() + seconds
        behind = [run for run in self.runs.values() if run.tail.is_behind]
        behind.sort(key=lambda run: (run is first, run.tail.modified), reverse=True)
        for run in behind:
            run.advance(deadline)
            if time.monotonic() >= deadline:
                break
        return bool(behind)

    @property
    def left_share(self) -> float:
        """The share of all bytes that is still to be read."""
        tails = [run.tail for run in self.runs.values()]
        total = sum(tail.size for tail in tails)
        left = sum(tail.size - tail.offset for tail in tails if tail.is_behind)
        return left / total if total else 0.0

    def arrange(
        self, filter_text: str = "", group_by: str = "", tree: bool = False
    ) -> list[Listed]:
        """Return the runs that match a filter, newest first, in groups or as a tree."""
        words = filter_text.casefold().split()
        runs = [run for run in self.runs.values() if all(w in describe(run) for w in words)]
        runs.sort(key=lambda run: (find_start(run), run.path.name), reverse=True)
        if tree:
            return list(self._list_tree(runs))
        if not group_by:
            return [Listed(run) for run in runs]
        key = GROUPS[group_by]
        listed = [Listed(run, key(run)) for run in runs]
        newest = {item.group: n for n, item in reversed([*enumerate(listed)])}
        return sorted(listed, key=lambda item: newest[item.group])

    def _list_tree(self, runs: Sequence[RunState]) -> Iterator[Listed]:
        parents = self.find_parents()
        children: dict[RunState | None, list[RunState]] = {}
        for run in runs:
            parent = parents.get(run)
            children.setdefault(parent if parent in runs else None, []).append(run)
        pending = [(run, 0) for run in reversed(children.get(None, []))]
        seen: set[RunState] = set()
        while pending:
            run, depth = pending.pop()
            seen.add(run)
            yield Listed(run, "", depth)
            pending += [(child, depth + 1) for child in reversed(children.get(run, []))]
        yield from (Listed(run) for run in runs if run not in seen)  # a cycle

    def find_parents(self) -> dict[RunState, RunState]:
        """Return the run that each run starts from, continues or trains on, if it is listed."""
        by_path = {os.path.abspath(path): run for path, run in self.runs.items()}
        parents = {}
        for run in self.runs.values():
            plan = run.plan
            for path in find_paths([plan.get("lineage"), plan.get("technique"), plan.get("model"),
                                    plan.get("data")]):  # fmt: skip
                above = (str(folder) for folder in (Path(path), *Path(path).parents))
                found = next((by_path[folder] for folder in above if folder in by_path), None)
                if found is not None and found is not run:
                    parents[run] = found
                    break
        return parents

    def find_search(self, run: RunState) -> list[RunState]:
        """Return the trials of the search that a run belongs to, in their order."""
        trials = [r for r in self.runs.values() if r.path.parent == run.path.parent and is_trial(r)]
        return sorted(trials, key=lambda trial: trial.path.name) if is_trial(run) else []


def is_trial(run: RunState) -> bool:
    """Return True if a run is a trial of ``tunesmith tune``."""
    stem, _, number = run.path.name.rpartition("-")
    return stem == "trial" and number.isdigit()


def find_paths(value: Any) -> Iterator[str]:
    """Yield all absolute paths in a part of a plan."""
    if isinstance(value, str) and os.path.isabs(value):
        yield os.path.normpath(value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from find_paths(item)


def find_start(run: RunState) -> str:
    """Return the time of a run's start, in UTC."""
    return run.report.started.started if run.report.started else ""


def find_value(run: RunState, table: str, key: str) -> str:
    """Return an option of a run's plan as text, or "" if there is none."""
    options = run.plan.get(table)
    return str(options.get(key, "")) if isinstance(options, dict) else ""


def describe(run: RunState) -> str:
    """Return the text that a filter searches."""
    word = str(run.report.verdict.get("word", ""))
    error = run.report.finished.error if run.report.finished else ""
    texts = (str(run.path), run.name, run.status, word, error,
             find_value(run, "model", "base"), find_value(run, "technique", "use"))  # fmt: skip
    return "\n".join(texts).casefold()


GROUPS: dict[str, Callable[[RunState], str]] = {
    "folder": lambda run: run.path.parent.name,
    "model": lambda run: Path(find_value(run, "model", "base")).name,
    "technique": lambda run: find_value(run, "technique", "use"),
    "status": lambda run: run.status,
    "verdict": lambda run: str(run.report.verdict.get("word", "")),
}
"""Functions that return the group of a run, by what the runs are grouped by."""
