"""Inject leaks of five kinds in published data, and count which of them are found.

``python -m tests.benchmarks.leaks FOLDER [--rows]`` reads the sets that lie in FOLDER, as
``tests.benchmarks.data_checks`` does, and prints the tables of ``docs/reference/data-checks.md``.

Published data has duplicates of its own. Those that are found among the test rows of the first seed
were read one by one; ``leaks_natural.tsv`` has what they are:

- ``same``: the same request in other words
- ``value``: the same request with another value
- ``detail``: the same request with one detail more, less, or another one
- ``other``: something else is asked, so that finding it is a false alarm

``--rows`` prints them with their texts. The rules were chosen while looking at rows of seed 0.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from tests.benchmarks.data_checks import (
    BITEXT,
    commands,
    instructions,
    json_lines,
    open_text,
    questions,
    table,
    turns,
)

from tunesmith.records import Completion
from tunesmith_data.near_duplicates.features import fold_case_and_spelling
from tunesmith_data.near_duplicates.punctuation import blank_punctuation
from tunesmith_plugins.checks.leaks.find_answers import find_contained_answers
from tunesmith_plugins.checks.leaks.find_leaks import (
    Leak,
    LeakKind,
    find_duplicates,
    find_shared_groups,
)

Rows = list[Completion]
INJECTED = 100
HOSTS = 200
"""Test rows in which nothing is injected."""
SEEDS = range(1, 6)
DUPLICATES: tuple[LeakKind, ...] = ("exact", "near", "template")
INJECTED_KINDS: tuple[LeakKind, ...] = (*DUPLICATES, "group", "answer")
NATURAL = Path(__file__).with_name("leaks_natural.tsv")


@dataclass(frozen=True)
class Corpus:
    name: str
    train: Rows
    test: Rows
    final: Callable[[str], str] = lambda answer: answer
    """The part of an answer that gives it away."""
    entities: tuple[tuple[str, str], ...] = ()
    """Values that stand in prompts, by type."""


def halves(rows: Iterable[Completion], seed: int = 0) -> tuple[Rows, Rows]:
    rows = list({row.prompt: row for row in rows}.values())
    random.Random(seed).shuffle(rows)
    cut = 4 * len(rows) // 5
    return rows[:cut], rows[cut:]


def read_corpora(folder: Path) -> list[Corpus]:
    intents = table("text", "category")
    bitext = folder / BITEXT
    with open_text(bitext) as file:
        entities = tuple(
            {(row["entity_type"], row["entity_value"]): None for row in csv.DictReader(file)}
        )
    return [
        Corpus(
            "banking77",
            list(intents(folder / "banking77/train.csv")),
            list(intents(folder / "banking77/test.csv")),
        ),
        Corpus(
            "GSM8K",
            list(questions(folder / "gsm8k/train.jsonl")),
            list(questions(folder / "gsm8k/test.jsonl")),
            lambda answer: answer.rpartition("#### ")[2],
        ),
        Corpus(
            "Bitext",
            *halves(table("instruction", "intent")(bitext)),
            entities=tuple(e for e in entities if e[1]),
        ),
        Corpus("NL2Bash", *halves(commands(folder / "nl2bash/all.nl"))),
        Corpus(
            "Self-Instruct",
            *halves(
                [
                    *instructions(folder / "self_instruct/user_oriented_instructions.jsonl"),
                    *instructions(folder / "self_instruct/seed_tasks.jsonl"),
                ]
            ),
        ),
        Corpus("HH-RLHF", *halves(first_turns(folder / "hh_rlhf/harmless-base_test.jsonl.gz"))),
    ]


def first_turns(path: Path) -> Iterator[Completion]:
    """Yield the first turn of each conversation and its answer."""
    for line, row in enumerate(json_lines(path), start=1):
        asked, answer = turns(row["chosen"])[:2]
        if asked.text and answer.text:
            yield Completion(
                source=f"{path.name}:{line}", prompt=asked.text, completion=answer.text
            )


# --- injected leaks ---------------------------------------------------------------------------


def plant_exact(rng: random.Random, text: str) -> str:
    change = rng.randrange(4)
    if change == 0:
        return text.upper()
    if change == 1:
        return re.sub(r"[.,;:?!']", "", text)
    if change == 2:
        return f"  {text.lower()} !!"
    return re.sub(r" ", lambda _: rng.choice([" ", "  ", ", "]), text)


def plant_near(rng: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(max(1, len(words) // 12)):
        place = rng.randrange(len(words))
        change = rng.randrange(4)
        word = words[place]
        if change == 0 and len(word) > 4:
            cut = rng.randrange(1, len(word) - 2)
            words[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
        elif change == 1 and len(word) <= 3 and len(words) > 6:
            del words[place]
        elif change == 2 and len(word) > 5:
            words[place] = word[:-1]
        else:
            words.insert(place, rng.choice(["please", "just", "really", "now"]))
    return " ".join(words)


_NUMBER = re.compile(r"\d+")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
_QUOTED = re.compile(r"(?<=[\"'])[^\"'\s]{2,}(?=[\"'])")
_WORD = re.compile(r"[A-Za-z][A-Za-z-]{3,}")


class Slots:
    """Replaces the values in a text: entities, quotes, numbers and names, else its rarest word."""

    def __init__(self, corpus: Corpus) -> None:
        texts = [row.prompt for row in (*corpus.train, *corpus.test)]
        self.counts = Counter(w for text in texts for w in {*_WORD.findall(text.lower())})
        self.names = sorted({m for text in texts for m in _NAME.findall(text)})
        self.quoted = sorted({m for text in texts for m in _QUOTED.findall(text)})
        self.rare = sorted(word for word, count in self.counts.items() if 2 <= count <= 20)
        self.by_type: dict[str, list[str]] = {}
        for kind, value in corpus.entities:
            self.by_type.setdefault(kind, []).append(value)
        self.types = dict((value, kind) for kind, value in corpus.entities)

    def replace(self, rng: random.Random, text: str) -> str | None:
        """Return the text with other values, None if too little of it would be left."""
        changes: dict[str, str] = {}
        for value, kind in self.types.items():
            if re.search(rf"\b{re.escape(value)}\b", text) and len(self.by_type[kind]) > 1:
                changes[value] = rng.choice([v for v in self.by_type[kind] if v != value])
        for value in _QUOTED.findall(text) if not changes else ():
            changes[value] = rng.choice(self.quoted)
        for value in _NAME.findall(text):
            if not changes or len(changes) < 3:
                changes[value] = rng.choice(self.names)
        for value in _NUMBER.findall(text):
            other = str(rng.randrange(10 ** (len(value) - 1), 10 ** len(value)))
            changes.setdefault(value, other)
        if not changes:
            words = _WORD.findall(text)
            if not words:
                return None
            word = min(words, key=lambda w: self.counts[w.lower()])
            changes[word] = rng.choice(self.rare)
        pattern = "|".join(
            rf"(?<![A-Za-z0-9]){re.escape(v)}(?![A-Za-z0-9])"
            for v in sorted(changes, key=len, reverse=True)
        )
        new = re.sub(pattern, lambda m: changes[m.group()], text)
        values = sum(
            len(v.split()) * len(re.findall(rf"\b{re.escape(v)}\b", text)) for v in changes
        )
        left = len(text.split()) - values
        return new if new != text and left >= 5 and left >= values else None


def plant_answer(rng: random.Random, row: Completion, final: str) -> str:
    form = rng.randrange(4)
    if form == 0:
        return f"{row.prompt}\nAnswer: {final}"
    if form == 1:
        return f"{row.prompt} (the answer is {final})"
    if form == 2:
        return f"label={final} {row.prompt}"
    return f"{row.prompt} {row.completion}"


@dataclass(frozen=True)
class Injected:
    train: Rows
    test: Rows
    kinds: list[str]
    """The kind of leak of each test row, empty for rows in which none was injected."""
    origins: list[int]


def inject(corpus: Corpus, seed: int = 0, count: int = INJECTED, hosts: int = HOSTS) -> Injected:
    """Return the rows of a corpus with leaks of each kind among its test rows."""
    rng = random.Random(seed)
    train = [replace(row, group=f"t{n // 5}") for n, row in enumerate(corpus.train)]
    pool = corpus.test[:]
    rng.shuffle(pool)
    count = min(count, len(train) // 6)
    hosts = min(hosts, max(len(pool) - 2 * count, len(pool) // 2))
    slots = Slots(corpus)
    test = [replace(row, group=f"h{n}") for n, row in enumerate(pool[:hosts])]
    kinds, origins = [""] * len(test), [-1] * len(test)
    rest = (pool[hosts:] * 3)[: 2 * count]

    def add(kind: str, row: Completion, origin: int) -> None:
        group = row.group if kind == "group" else f"{kind}{len(test)}"
        test.append(replace(row, source=f"{kind}:{origin}", group=group))
        kinds.append(kind)
        origins.append(origin)

    order = [n for n, row in enumerate(train) if len(row.prompt.split()) >= 6]
    rng.shuffle(order)
    numbers = iter(order)
    for n in (next(numbers) for _ in range(count)):
        add("exact", replace(train[n], prompt=plant_exact(rng, train[n].prompt)), n)
    for n in (next(numbers) for _ in range(count)):
        add("near", replace(train[n], prompt=plant_near(rng, train[n].prompt)), n)
    while kinds.count("template") < count:
        n = next(numbers, None)
        if n is None:
            break
        text = slots.replace(rng, train[n].prompt)
        if text is not None:
            add("template", replace(train[n], prompt=text), n)
    for row in rest[:count]:
        n = rng.randrange(len(train))
        add("group", replace(row, group=train[n].group), n)
    for row in rest[count:]:
        text = plant_answer(rng, row, corpus.final(row.completion))
        add("answer", replace(row, prompt=text), -1)
    return Injected(train, test, kinds, origins)


def find(injected: Injected) -> dict[int, dict[str, Leak]]:
    """Return the leaks by row and kind."""
    found: dict[int, dict[str, Leak]] = {}
    leaks = chain(
        find_duplicates(injected.train, injected.test),
        find_shared_groups(injected.train, injected.test),
        find_contained_answers(injected.test),
    )
    for leak in leaks:
        found.setdefault(leak.row, {})[leak.kind] = leak
    return found


def is_found(injected: Injected, row: int, found: dict[int, dict[str, Leak]]) -> bool:
    """Return True if an injected leak is found; a duplicate may be found as another kind."""
    kinds = DUPLICATES if injected.kinds[row] in DUPLICATES else (injected.kinds[row],)
    return any(kind in found.get(row, ()) for kind in kinds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.leaks")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--rows", action="store_true", help="print the duplicates that were read too"
    )
    options = parser.parse_args()
    corpora = read_corpora(options.folder)
    print(f"recall: found of the injected leaks, seeds {SEEDS[0]} to {SEEDS[-1]}\n")
    print(f"| set | {' | '.join(INJECTED_KINDS)} |\n|---{'|---' * len(INJECTED_KINDS)}|")
    for corpus in corpora:
        print(f"| {corpus.name} | {' | '.join(count_found(corpus))} |")
    print(f"\nprecision, seed {SEEDS[0]}: rows that are found and are leaks\n")
    print("| set | kind | injected | natural, read | false alarms | precision |")
    print("|---|---|---|---|---|---|")
    read = read_natural()
    for corpus in corpora:
        print_precision(corpus, read, show_rows=options.rows)
    print_exact_duplicates(corpora[0])


def count_found(corpus: Corpus) -> list[str]:
    """Return ``found of injected (share)`` for each kind, over all seeds."""
    found, total = Counter[str](), Counter[str]()
    for seed in SEEDS:
        injected = inject(corpus, seed)
        leaks = find(injected)
        for row, kind in enumerate(injected.kinds):
            total[kind] += 1
            found[kind] += is_found(injected, row, leaks)
    return [f"{found[k]} of {total[k]} ({found[k] / total[k]:.3f})" for k in INJECTED_KINDS]


def read_natural() -> dict[tuple[str, ...], str]:
    with NATURAL.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        return {
            (name, kind, row, duplicate): verdict for name, kind, row, duplicate, verdict in rows
        }


def print_precision(corpus: Corpus, read: dict[tuple[str, ...], str], *, show_rows: bool) -> None:
    injected = inject(corpus, SEEDS[0])
    leaks = find(injected)
    for kind in INJECTED_KINDS:
        verdicts = Counter[str]()
        for row, own in enumerate(injected.kinds):
            leak = leaks.get(row, {}).get(kind)
            if leak is None:
                continue
            is_injected = own == kind or (kind in DUPLICATES and own in DUPLICATES)
            verdict = "injected"
            if not is_injected and own:
                continue  # a row of another kind: it is no sample of clean rows
            if not is_injected:
                duplicate = injected.train[leak.known].source if leak.known >= 0 else ""
                source = injected.test[row].source
                verdict = read.get((corpus.name, kind, source, duplicate), "not read")
                if show_rows:
                    text = injected.train[leak.known].prompt if leak.known >= 0 else ""
                    values = (corpus.name, kind, source, duplicate, verdict)
                    print("\t".join(values), repr(injected.test[row].prompt), repr(text), sep="\t")
            verdicts[verdict] += 1
        total, wrong = verdicts.total(), verdicts["other"] + verdicts["not read"]
        natural = ", ".join(f"{n} {v}" for v, n in sorted(verdicts.items()) if v != "injected")
        share = f"{(total - wrong) / total:.3f}" if total else "-"
        cells = (corpus.name, kind, verdicts["injected"], natural or "-", wrong, share)
        print(f"| {' | '.join(map(str, cells))} |")


def print_exact_duplicates(corpus: Corpus) -> None:
    """Print how many test rows of a set equal a training row, by how texts are compared."""
    print(f"\n{corpus.name}: equal prompts of its own split\n")
    print("| texts are compared by | test rows | different texts | pairs |\n|---|---|---|---|")
    for name, fold in FOLDS.items():
        train = Counter(fold(row.prompt) for row in corpus.train)
        found = [text for row in corpus.test if (text := fold(row.prompt)) in train]
        pairs = sum(train[text] for text in found)
        print(f"| {name} | {len(found)} | {len({*found})} | {pairs} |")


def words_of(text: str) -> str:
    """Return what the kind `exact` compares."""
    return " ".join(
        re.findall(r"[^\W_]+|[^\w\s]|_", blank_punctuation(fold_case_and_spelling([text])[0]))
    )


def letters_and_digits(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


FOLDS: dict[str, Callable[[str], str]] = {
    "all characters": lambda text: text,
    "NFKC, case folded, single spaces": lambda text: " ".join(
        unicodedata.normalize("NFKC", text).casefold().split()
    ),
    "the same without `.,!?;:` and quotes": lambda text: " ".join(
        re.sub(r"[.,!?;:'\"]", "", unicodedata.normalize("NFKC", text).casefold()).split()
    ),
    "words of ASCII letters and digits, case folded": lambda text: " ".join(
        re.findall(r"[a-z0-9]+", text.casefold())
    ),
    "words and symbols without punctuation, case folded": words_of,
    "letters and digits only, case folded": letters_and_digits,
    "ASCII letters and digits only, lower case": lambda text: re.sub(
        r"[^a-z0-9]", "", text.lower()
    ),
}


if __name__ == "__main__":
    main()
