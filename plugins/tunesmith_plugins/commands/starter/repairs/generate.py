"""Generate the rows of this example: ``python generate.py`` writes train.jsonl and test.jsonl.

A row contains a tenant's message, and the work order that the property manager writes for it. The
two files describe different problems and people and, in part, express times differently. The test
rows therefore show whether a model has learned to write work orders, not just these sentences.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TRAIN_ROWS, TEST_ROWS = 320, 100
SEED = 1

TEAMS = {
    "HTG": (
        "the radiator in the bedroom stays cold",
        "our heating has been off since last night",
        "the boiler shows a red light and there is no warm water",
        "the thermostat does nothing, it is far too cold here",
        "the radiators bang and gurgle the whole night",
        "we are freezing, the heating never gets warm",
        "the boiler goes out after ten minutes",
        "a valve on the radiator hisses",
    ),
    "PLB": (
        "the kitchen tap drips all day",
        "the toilet keeps running after every flush",
        "water comes up through the shower drain",
        "the pipe under the sink leaks into the cupboard",
        "the bath empties very slowly, the drain must be blocked",
        "there is a puddle under the washbasin every morning",
        "the shower has hardly any pressure",
        "the toilet is blocked again",
    ),
    "ELC": (
        "the sockets in the kitchen are dead",
        "the fuse blows when I switch on the oven",
        "the light in the hallway flickers",
        "there is no power in half of the rooms",
        "a socket sparks when I plug something in",
        "the lamp over the stairs went dark",
        "the switch in the bathroom gets hot and smells burnt",
        "the wiring behind the cooker buzzes",
    ),
    "LCK": (
        "the key turns in the lock but the bolt stays put",
        "I lost my key and need a new cylinder",
        "the entrance door does not lock any more",
        "the key broke off in the lock",
        "somebody tried to force the lock of my door",
        "the lock of the mailbox is jammed",
        "my spare key does not fit the lock",
        "the bolt scrapes and I can hardly turn the key",
    ),
    "GLZ": (
        "the window in the living room does not close",
        "a pane is cracked from side to side",
        "there is a draught through the window frame",
        "the window handle came off in my hand",
        "rain gets in at the bottom of the window",
        "the glass of the balcony door is misty inside",
        "a ball went through the window pane",
        "the window is stuck and will not open",
    ),
    "LFT": (
        "the lift stops between two floors",
        "the lift doors close much too fast",
        "the elevator has been standing still since Sunday",
        "the alarm button in the lift cabin hangs loose",
        "the elevator makes a grinding noise",
        "the lift does not come when it is called",
        "the lift cabin stops a step too low",
        "nobody can use the elevator, its doors stay open",
    ),
}
"""Problems, by the code of the team that fixes them."""
TEST_TEAMS = {
    "HTG": (
        "none of the radiators gets warm",
        "the heating works for an hour and then it is cold again",
        "the boiler leaks steam and rattles",
        "the thermostat is stuck at thirty degrees",
    ),
    "PLB": (
        "the sink is blocked and smells",
        "the tap in the bathroom cannot be turned off",
        "a pipe has burst, water runs down the wall",
        "the flush of the toilet does not work",
    ),
    "ELC": (
        "all lights went out with a bang and the fuse will not stay in",
        "there is no power on the sockets of the living room",
        "a cable hangs out of the wall and the lamp is dead",
        "the light switch gives me small shocks",
    ),
    "LCK": (
        "I locked myself out and the key is inside",
        "the cylinder is loose and the key slips",
        "the door of the cellar cannot be locked",
        "my key bends when I turn it in the lock",
    ),
    "GLZ": (
        "the window frame is rotten",
        "a stone hit the glass and left a hole",
        "the window rattles in the wind",
        "two panes have come loose",
    ),
    "LFT": (
        "the lift is out of order again",
        "I was stuck in the elevator for an hour",
        "the light in the lift cabin is out and its doors squeak",
        "the elevator skips our floor",
    ),
}

DAYS = {
    "MON": ("Monday", "Mon"),
    "TUE": ("Tuesday", "Tue"),
    "WED": ("Wednesday", "Wed"),
    "THU": ("Thursday", "Thu"),
    "FRI": ("Friday", "Fri"),
}
TIMES = {
    "AM": ("morning", "before noon", "before lunch", "at 9", "between 8 and 10", "until 11"),
    "PM": ("afternoon", "after lunch", "evening", "at 3 pm", "from 4 pm", "after work"),
}
TEST_TIMES = {
    "AM": ("at 10", "early in the morning"),
    "PM": ("late in the afternoon", "at 5 pm"),
}

FLOORS = {
    1: ("first", "1st"),
    2: ("second", "2nd"),
    3: ("third", "3rd"),
    4: ("fourth", "4th"),
    5: ("fifth", "5th"),
    6: ("sixth", "6th"),
}
DOORS = "ABCD"


def list_words(text: str) -> Sequence[str]:
    """Split a text into words."""
    return tuple(text.split())


FIRST_NAMES = list_words(
    """
    Anna Bela Carla David Elif Farid Greta Hugo Irene Jonas Karim Lena Marta Nadia Oskar Paula
    Rosa Samir Tessa Viktor Yara Zoe Adam Bruno Clara Dora Emil Flora Goran Hana Ines Julia Kofi
    Leo Milan Nora Pavel Rita Simon Tara
    """
)
SURNAMES = list_words(
    """
    Adler Becker Conti Duarte Engel Fischer Garcia Hansen Ivanov Jansen Keller Lopez Moreau
    Novak Okafor Petrov Quinn Rossi Schmidt Torres Ulrich Vargas Weber Young Zimmer Abbas Brandt
    Costa Dahl Erdem Foster Gruber Haas Iqbal Jordan Klein Lang Meyer Nagy Olsen Palmer Reyes
    Santos Tanaka Varga Wagner Xu Yilmaz Zeller Ahmed Bauer Carter Dietz Evans Fuchs Grant Huber
    Ibsen Jung Kaya Lehmann Marin Nilsen Ortiz Peters Richter Sommer Turner Urban Vogel Walker
    Zhang Abel Barros Cruz Dumas Ernst Farah Gallo Horvat Imhof Jovic Kumar Leclerc Mancini Neri
    Ohlsen Patel Romano Sanders Toth Unger Valente Wolf Yang Zuniga Amari Bosch Cohn Dvorak
    Esposito Frey Giordano Hoang Iversen Jacobsen Kowalski Lindgren Mbeki Nunez Otto Pham Rahman
    Sato Tran Vasquez Wirth Andersen Berger Chavez Danso Eklund Fiore Geiger Holm Kruse Lund
    Mora Navarro Pinto Rojas Sala Theis Vos Wendt Zanetti
    """
)
TEST_FIRST_NAMES = list_words(
    """
    Aisha Boris Celia Dario Eva Felix Gina Heiko Ida Jakob Kira Luca Maya Nils Olga Philip Ruth
    Sven Thea Ugo Vera Wanda
    """
)
TEST_SURNAMES = list_words(
    """
    Albrecht Bergman Castro Demir Eriksen Fontana Gomez Hoffman Ito Jacobs Kovacs Larsen Mendez
    Nowak Orlov Pereira Ramos Silva Thomsen Usman Vidal Winter Yusuf Ziegler Arslan Bianchi
    Cohen Dubois Ferrari Graf
    """
)
OPENINGS = ("Hello!", "Hi.", "Good morning.", "Dear team,", "Hi there.", "")


@dataclass(frozen=True)
class Words:
    """The vocabulary of one of the two files."""

    problems: Mapping[str, Sequence[str]]
    times: Mapping[str, Sequence[str]]
    first_names: Sequence[str]
    surnames: Sequence[str]


TRAIN = Words(TEAMS, TIMES, FIRST_NAMES, SURNAMES)
TEST = Words(
    TEST_TEAMS,
    {half: (*TIMES[half], *TEST_TIMES[half]) for half in TIMES},
    TEST_FIRST_NAMES,
    TEST_SURNAMES,
)


def write_unit(rng: random.Random, floor: int, door: str) -> str:
    """Return a flat as a tenant writes it: ``flat 3B``, ``third floor, door B``."""
    ordinal, short = FLOORS[floor]
    return rng.choice(
        (
            f"flat {floor}{door}",
            f"apartment {floor} {door.lower()}",
            f"{ordinal} floor, door {door}",
            f"door {door} on the {short} floor",
            f"flat {door}, {short} floor",
            f"{floor}{door.lower()}",
        )
    )


def write_slot(rng: random.Random, day: str, time: str) -> str:
    """Return a time when the tenant is at home, such as ``Tuesday after lunch``."""
    name = rng.choice(DAYS[day])
    if time.split()[0] in ("morning", "afternoon", "evening"):
        return f"{name} {time}"
    return rng.choice((f"{name} {time}", f"{time} on {name}"))


def write_message(problem: str, unit: str, slot: str, name: str, rng: random.Random) -> str:
    """Return a message with its parts in one of several orders."""
    start, when = (text[0].upper() + text[1:] for text in (problem, slot))
    bodies = (
        f"{start}. I live in {unit}. {when} suits me.",
        f"{unit}: {problem}. You can come {slot}.",
        f"{start} ({unit}). Could somebody come {slot}?",
        f"Please send somebody to {unit}, {slot} if possible: {problem}.",
        f"I am at home {slot}. {start}. It is {unit}.",
        f"{start}. {when} would be best. {unit}.",
    )
    signed = (
        "{} {name}",
        "{} Regards, {name}",
        "{} Thanks, {name}",
        "This is {name}. {}",
        "{name} here. {}",
    )
    text = rng.choice(signed).format(rng.choice(bodies), name=name)
    return f"{rng.choice(OPENINGS)} {text}".strip()


def generate_rows(words: Words, count: int, rng: random.Random) -> list[dict[str, str]]:
    """Return rows with every team equally often, and days and halves of the day at random."""
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        team = sorted(words.problems)[len(rows) % len(words.problems)]
        day, half = rng.choice(sorted(DAYS)), rng.choice(sorted(words.times))
        floor, door = rng.choice(sorted(FLOORS)), rng.choice(DOORS)
        first, last = rng.choice(words.first_names), rng.choice(words.surnames)
        prompt = write_message(
            rng.choice(words.problems[team]),
            write_unit(rng, floor, door),
            write_slot(rng, day, rng.choice(words.times[half])),
            f"{first} {last}",
            rng,
        )
        order = {
            "team": team,
            "unit": f"U0{floor}-{door}",
            "slot": f"{day}-{half}",
            "contact": f"{last}, {first[0]}.",
        }
        rows[prompt] = {"prompt": prompt, "completion": json.dumps(order)}
    shuffled = [*rows.values()]
    rng.shuffle(shuffled)
    return shuffled


def main() -> None:
    """Write both files next to this one."""
    rng = random.Random(SEED)
    parts = {"train": (TRAIN, TRAIN_ROWS), "test": (TEST, TEST_ROWS)}
    for name, (words, count) in parts.items():
        rows = generate_rows(words, count, rng)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (Path(__file__).parent / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
