"""Count what the checks of rows find in published data, which is taken to be clean.

``python -m tests.benchmarks.data_checks FOLDER [--rows]`` reads the sets that lie in FOLDER, each
in a folder of its name, with the files of its authors: banking77 (PolyAI, CC BY 4.0), the smaller
customer support set of Bitext (CDLA-Sharing 1.0), GSM8K (MIT), HH-RLHF (MIT), NL2Bash (MIT),
Self-Instruct (Apache-2.0) and WikiText-2 (CC BY-SA). It prints the table of
``docs/reference/data-checks.md``; with ``--rows``, also the examples.

The thresholds were chosen on the sets of ``CHOSEN_ON``. A row that is found in the others is
either a false alarm or a fault of the set, so the share is an upper bound of the false alarms.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tunesmith.records import Completion, Message, Preference, Record, Text
from tunesmith_plugins.checks.knowledge import find_new_facts, read_rows
from tunesmith_plugins.checks.languages import review as review_languages
from tunesmith_plugins.checks.rows.check import show_share
from tunesmith_plugins.checks.rows.review import review

Read = Callable[[Path], Iterator[Record]]


def open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8-sig", newline="")


def completions(path: Path, rows: Iterable[tuple[str, str]]) -> Iterator[Record]:
    for line, (prompt, completion) in enumerate(rows, start=1):
        if prompt.strip() and completion.strip():
            yield Completion(source=f"{path.name}:{line}", prompt=prompt, completion=completion)


def table(prompt: str, completion: str) -> Read:
    """Return a function that reads two columns of a CSV file."""

    def read(path: Path) -> Iterator[Record]:
        with open_text(path) as file:
            rows = ((row[prompt], row[completion]) for row in csv.DictReader(file))
            yield from completions(path, rows)

    return read


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_text(path) as file:
        yield from map(json.loads, file)


def questions(path: Path) -> Iterator[Record]:
    rows = ((row["question"], row["answer"]) for row in json_lines(path))
    return completions(path, rows)


def instructions(path: Path) -> Iterator[Record]:
    rows = (
        (f"{row['instruction']}\n{row['instances'][0]['input']}", row["instances"][0]["output"])
        for row in json_lines(path)
    )
    return completions(path, rows)


def commands(path: Path) -> Iterator[Record]:
    answers = path.with_suffix(".cm").read_text(encoding="utf-8").splitlines()
    prompts = path.read_text(encoding="utf-8").splitlines()
    return completions(path, zip(prompts, answers, strict=True))


def pairs(path: Path) -> Iterator[Record]:
    for line, row in enumerate(json_lines(path), start=1):
        chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
        if chosen[:-1] == rejected[:-1] and chosen[-1].text and rejected[-1].text:
            yield Preference(
                source=f"{path.name}:{line}",
                prompt=chosen[:-1],
                chosen=chosen[-1].text,
                rejected=rejected[-1].text,
            )


def turns(text: str) -> tuple[Message, ...]:
    _, *parts = re.split(r"\n\n(Human|Assistant): ?", text)
    return tuple(
        Message("user" if role == "Human" else "assistant", content.strip())
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    )


def paragraphs(path: Path) -> Iterator[Record]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if len(line) > 40:
                yield Text(source=f"{path.name}:{number}", text=line.strip())


BITEXT = "bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv"
CHOSEN_ON: dict[str, tuple[str, Read]] = {
    "banking77, training part": ("banking77/train.csv", table("text", "category")),
    "Bitext, intents": (BITEXT, table("instruction", "intent")),
    "Bitext, responses": (BITEXT, table("instruction", "response")),
    "GSM8K, training part": ("gsm8k/train.jsonl", questions),
    "NL2Bash": ("nl2bash/all.nl", commands),
    "Self-Instruct, user-oriented": (
        "self_instruct/user_oriented_instructions.jsonl",
        instructions,
    ),
    "WikiText-2, validation part": ("wikitext2_eval/valid.txt", paragraphs),
}
REPORTED_ON: dict[str, tuple[str, Read]] = {
    "banking77, test part": ("banking77/test.csv", table("text", "category")),
    "GSM8K, test part": ("gsm8k/test.jsonl", questions),
    "HH-RLHF, harmless, test part": ("hh_rlhf/harmless-base_test.jsonl.gz", pairs),
    "Self-Instruct, seeds": ("self_instruct/seed_tasks.jsonl", instructions),
    "WikiText-2, test part": ("wikitext2_eval/test.txt", paragraphs),
}


@dataclass
class Result:
    """The rows that one kind of finding is about, by set."""

    levels: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.data_checks")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--rows", action="store_true", help="print the examples too")
    options = parser.parse_args()
    for title, sets in (("chosen on", CHOSEN_ON), ("reported on", REPORTED_ON)):
        records = {name: list(read(options.folder / file)) for name, (file, read) in sets.items()}
        sizes = {name: len(rows) for name, rows in records.items()}
        print(f"\n{title}: {', '.join(f'{name} ({n:,})' for name, n in sizes.items())}\n")
        print("| finding | level | rows found | most in one set |\n|---|---|---|---|")
        for what, result in sorted(find(records).items()):
            count, total = sum(result.counts.values()), sum(sizes.values())
            most = max(result.counts, key=lambda name: result.counts[name] / sizes[name])
            print(
                f"| {what} | {' or '.join(sorted(result.levels))} "
                f"| {show_share(count, total, 'rows')} "
                f"| {show_share(result.counts[most], sizes[most], 'rows')}: {most} |"
            )
            for example in result.examples if options.rows else ():
                print(f"    {example}")
        print("\n| set | answers with facts that their prompt does not contain |\n|---|---|")
        for name, rows in records.items():
            stated = [bool(find_new_facts(row)) for _, row in read_rows(rows)]
            if stated:
                print(f"| {name} | {show_share(sum(stated), len(stated), 'answers')} |")


def find(sets: Mapping[str, Sequence[Record]]) -> dict[str, Result]:
    """Return the results by check and message."""
    found: defaultdict[str, Result] = defaultdict(Result)
    for name, records in sets.items():
        for finding in [*review(records), *review_languages(records)]:
            if finding.where != "data edge cases":
                message = re.sub(r"[\d,]*\d (of [\d,]+ \([^)]*\) )?", "", finding.message)
                result = found[f"{finding.where.removeprefix('data ')}: {message}"]
                result.levels.add(finding.level)
                result.counts[name] = finding.count
                result.examples += [f"{name}: {example}" for example in finding.examples]
    return found


if __name__ == "__main__":
    main()
