"""Measure how much injected personal data is found, and how much else.

    python benchmarks/injected.py                # 20,000 rows
    python benchmarks/injected.py --rows 500 --missed

Half of the rows have an item of a random kind; all rows have numbers that are not personal data.
Check digits are computed here, independently of the recognizers. Three finders read the same rows:
``tunesmith data fix --mask``, the recognizers of Presidio alone, and both together.
"""

from __future__ import annotations

import argparse
import random
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tunesmith_data import personal_data
from tunesmith_data.personal_data import Span
from tunesmith_presidio.analyze import find_spans, make_analyzer

Find = Callable[[str], Sequence[Span]]
MONTHS = "January February March April May June July August September October November December"
FILLER = (
    "The delivery was two days late and the box was open.",
    "Please close the ticket when the printer works again.",
    "The patient reports no pain and sleeps well.",
    "We agreed to move the meeting to next week.",
    "Can you tell me how to change the plan?",
    "The lease ends after twelve months unless it is renewed.",
    "He asked for a refund because the zip of the jacket broke.",
    "The build fails since the update of the compiler.",
)


class Row(NamedTuple):
    text: str
    kind: str
    """Kind of the item; empty if the row has none."""
    start: int = 0
    end: int = 0


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def luhn(start: str) -> str:
    """Append the digit that makes the sum of Luhn's algorithm a multiple of ten."""
    total = sum(
        sum(divmod(int(d) * (2 if place % 2 == 0 else 1), 10))
        for place, d in enumerate(reversed(start))
    )
    return start + str(-total % 10)


def mod_97(country: str, account: str) -> str:
    number = int("".join(str(int(c, 36)) for c in account + country) + "00")
    return f"{country}{98 - number % 97:02}{account}"


def weighted(start: str, weights: Sequence[int], modulus: int) -> int:
    return sum(int(d) * w for d, w in zip(start, weights, strict=True)) % modulus


def make_email(rng: random.Random) -> str:
    name = rng.choice(("anna.meier", "j_okafor", "li-wei", "m.rossi+shop", "kontakt"))
    domain = rng.choice(("web.de", "firma-meier.com", "uni.co.uk", "mail.fr"))
    return f"{name}{rng.randrange(99)}@{domain}"


def make_phone(rng: random.Random) -> str:
    form = rng.choice(
        ("+49 30 {6}", "+44 20 7946 0{3}", "+1 212-555-0{3}", "(415) 555-0{3}", "030 {6}",
         "0171 {7}", "06 12 34 {2} {2}", "020 7946 0{3}", "212-555-0{3}")
    )  # fmt: skip
    for count in "2367":
        while f"{{{count}}}" in form:
            form = form.replace(f"{{{count}}}", digits(rng, int(count)), 1)
    return form


def make_iban(rng: random.Random) -> str:
    number = mod_97("DE", digits(rng, 18))
    grouped = " ".join(number[place : place + 4] for place in range(0, len(number), 4))
    return rng.choice((number, grouped))


def make_card(rng: random.Random) -> str:
    number = luhn(rng.choice(("4", "51")).ljust(2, "1") + digits(rng, 13))
    return rng.choice((number, " ".join(number[p : p + 4] for p in range(0, 16, 4))))


def make_ssn(rng: random.Random) -> str:
    return f"{rng.randrange(100, 665)}-{rng.randrange(10, 99)}-{rng.randrange(1001, 9999)}"


def make_pesel(rng: random.Random) -> str:
    start = f"{rng.randrange(50, 99)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}" + digits(
        rng, 4
    )
    return start + str(-weighted(start, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), 10) % 10)


def make_finnish(rng: random.Random) -> str:
    start = f"{rng.randrange(1, 29):02}{rng.randrange(1, 13):02}{rng.randrange(40, 99)}"
    number = f"{rng.randrange(2, 900):03}"
    return f"{start}-{number}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(start + number) % 31]}"


def make_nhs(rng: random.Random) -> str:
    while True:
        start = str(rng.randrange(400_000_000, 499_999_999))
        check = 11 - weighted(start, range(10, 1, -1), 11)
        if check != 10:
            number = start + str(check % 11)
            return f"{number[:3]} {number[3:6]} {number[6:]}"


def make_dni(rng: random.Random) -> str:
    number = rng.randrange(10_000_000, 99_999_999)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def make_nir(rng: random.Random) -> str:
    number = f"{rng.choice('12')}{rng.randrange(40, 99)}{rng.randrange(1, 13):02}75{digits(rng, 6)}"
    return f"{number}{97 - int(number) % 97:02}"


def make_cpf(rng: random.Random) -> str:
    number = digits(rng, 9)
    for count in (10, 11):
        check = 11 - weighted(number, range(count, 1, -1), 11)
        number += str(check if check < 10 else 0)
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


def make_nino(rng: random.Random) -> str:
    first, number, last = rng.choice(("AB", "JK", "LM")), digits(rng, 6), rng.choice("ABCD")
    return f"{first} {number[:2]} {number[2:4]} {number[4:]} {last}"


def make_date(rng: random.Random) -> str:
    year, month, day = rng.randrange(1930, 2010), rng.randrange(1, 13), rng.randrange(1, 29)
    name = MONTHS.split()[month - 1]
    return rng.choice(
        (f"{year}-{month:02}-{day:02}", f"{day}.{month}.{year}", f"{day:02}/{month:02}/{year}",
         f"{name} {day}, {year}", f"{day} {name} {year}")
    )  # fmt: skip


def make_record(rng: random.Random) -> str:
    return rng.choice((digits(rng, 8), f"A-{digits(rng, 6)}", f"KD{digits(rng, 7)}"))


def make_ip(rng: random.Random) -> str:
    return ".".join(str(rng.randrange(11, 223)) for _ in range(4))


def make_mac(rng: random.Random) -> str:
    return ":".join(f"{rng.randrange(256):02x}" for _ in range(6))


def make_passport(rng: random.Random) -> str:
    return digits(rng, 9)


KINDS: dict[str, tuple[Callable[[random.Random], str], tuple[str, ...]]] = {
    "e-mail address": (make_email, ("Write to {}.", "My address is {}, thanks.", "cc: {}")),
    "telephone number": (make_phone, ("Call me at {}.", "My number is {}.", "phone: {}", "({})")),
    "bank account": (make_iban, ("IBAN {}", "Refund it to {}, please.", "account: {}")),
    "payment card": (make_card, ("The card {} was declined.", "card number: {}", "Paid with {}.")),
    "US social security": (make_ssn, ("SSN {}", "My social security number is {}.", "{} is mine.")),
    "Polish PESEL": (make_pesel, ("PESEL: {}", "PESEL {} is on the form.")),
    "Finnish id": (make_finnish, ("Her identity code is {}.", "hetu {}", "ID {}")),
    "British NHS": (make_nhs, ("NHS number {}", "NHS no. {}", "Her NHS number is {}.")),
    "Spanish DNI": (make_dni, ("DNI {}", "Mi DNI es {}.", "({})")),
    "French NIR": (make_nir, ("Sécurité sociale : {}", "NIR {}", "My number is {}.")),
    "Brazilian CPF": (make_cpf, ("CPF {}", "CPF: {}.", "({})")),
    "British NI": (make_nino, ("NI number {}", "National insurance: {}", "({})")),
    "date of birth": (
        make_date,
        ("Born on {}.", "DOB: {}", "date of birth: {}", "birthday: {}", "She was born {} in Rome."),
    ),
    "record number": (
        make_record,
        ("MRN {}", "patient no. {}", "customer number: {}", "Kundennummer {}", "Case number {}",
         "policy no. {}", "member id {}"),
    ),
    "IP address": (make_ip, ("The request came from {}.", "IP {}", "client {} timed out")),
    "MAC address": (make_mac, ("MAC {}", "The device {} is offline.")),
    "US passport": (make_passport, ("passport number {}", "Her passport is {}.")),
}  # fmt: skip
"""Generator and sentences of each kind."""


def make_other(rng: random.Random) -> str:
    """Return a sentence with numbers that are not personal data."""
    card = luhn("4" + digits(rng, 14))
    serial = "".join(rng.choices(string.ascii_uppercase, k=3)) + digits(rng, 8)
    wrong = card[:-1] + str((int(card[-1]) + rng.randrange(1, 10)) % 10)
    return rng.choice(
        (
            f"The contract was signed on {make_date(rng)}.",
            f"Order {digits(rng, 10)} has shipped.",
            f"It costs {rng.randrange(1000):,}.{digits(rng, 2)} EUR.",
            f"Version {rng.randrange(9)}.{rng.randrange(20)}.{rng.randrange(20)} fixes it.",
            f"Invoice {rng.randrange(2019, 2027)}-{digits(rng, 5)} is paid.",
            f"Error 0x{rng.randrange(1 << 32):08x} in line {rng.randrange(5000)}.",
            f"The serial number is {serial}.",
            f"The test card {wrong} is not valid.",
            f"See RFC {rng.randrange(9000)}, section {rng.randrange(9)}.{rng.randrange(9)}.",
            f"The parcel weighs {rng.randrange(99)}.{rng.randrange(9)} kg.",
            f"Commit {rng.randrange(1 << 40):010x} broke it at {rng.randrange(24)}:30.",
        )
    )


def make_rows(count: int, seed: int = 0) -> list[Row]:
    """Return rows, every second one with an item."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        parts = [*rng.sample(FILLER, 2), make_other(rng)]
        rng.shuffle(parts)
        if number % 2:
            rows.append(Row(" ".join(parts), ""))
            continue
        kind = rng.choice([*KINDS])
        make, sentences = KINDS[kind]
        item, sentence = make(rng), rng.choice(sentences)
        place = rng.randrange(len(parts) + 1)
        before = "".join(f"{part} " for part in parts[:place])
        start = len(before) + sentence.index("{}")
        text = " ".join((before + sentence.format(item), *parts[place:]))
        rows.append(Row(text, kind, start, start + len(item)))
    return rows


def score(rows: Sequence[Row], find: Find, *, show: bool = False) -> tuple[Counter[str], int]:
    """Count the items of each kind that are found completely, and the other values found."""
    found: Counter[str] = Counter()
    others = 0
    for row in rows:
        spans = [(span.start, span.end) for span in find(row.text)]
        hits = [s for s in spans if row.kind and s[0] < row.end and row.start < s[1]]
        covered = any(s[0] <= row.start and row.end <= s[1] for s in hits)
        found[row.kind] += bool(row.kind) and covered
        others += len(spans) - len(hits)
        if show and row.kind and not covered:
            print(f"missed {row.kind}: {row.text}")
        if show and len(spans) > len(hits):
            print(f"other: {[row.text[a:b] for a, b in spans if (a, b) not in hits]}")
    return found, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--missed", action="store_true", help="Print what both together miss.")
    options = parser.parse_args()
    rows = make_rows(options.rows)
    alone, both = make_analyzer(kinds=()), make_analyzer()
    finders: dict[str, Find] = {
        "`data fix --mask`": personal_data.find_spans,
        "Presidio alone": lambda text: find_spans(text, alone),
        "tunesmith-presidio": lambda text: find_spans(text, both),
    }
    total = Counter(row.kind for row in rows if row.kind)
    results = [
        score(rows, find, show=options.missed and name == "tunesmith-presidio")
        for name, find in finders.items()
    ]
    print(f"| kind | items | {' | '.join(finders)} |\n|---|---|---|---|---|")
    for kind in KINDS:
        shares = [f"{found[kind] / max(1, total[kind]):.3f}" for found, _ in results]
        print(f"| {kind} | {total[kind]:,} | {' | '.join(shares)} |")
    sums = [sum(found.values()) for found, _ in results]
    recall = [f"{count / total.total():.3f}" for count in sums]
    precision = [
        f"{count / max(1, count + others):.3f}"
        for count, (_, others) in zip(sums, results, strict=True)
    ]
    print(f"| all: recall | {total.total():,} | {' | '.join(recall)} |")
    print(f"| all: precision | | {' | '.join(precision)} |")


if __name__ == "__main__":
    main()
