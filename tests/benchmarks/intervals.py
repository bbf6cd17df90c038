"""Measure how often intervals cover the truth, and how often the verdict raises a false alarm.

``python -m tests.benchmarks.intervals`` prints the tables of ``docs/explanation/verdict.md``.
Shares and pairs of right/wrong values are enumerated: every possible result, weighted by its
probability. Rows in groups, clusters of rows, and whole verdicts, are simulated. ``--runs`` is the
number of simulations of a cell; ``--only`` names tables.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.python.verdict_cases import Case

from tunesmith.statistics import Interval, mean_interval
from tunesmith_evidence.judging.equal_length import LengthControl
from tunesmith_evidence.statistics import compare, paired_difference

SIZES = (60, 124, 500)
SHARES = (0.5, 0.9, 0.97, 1.0)
DISCORDANT = (0.05, 0.1, 0.2, 0.4)
DELTAS = (0.0, 0.02, 0.05)
GROUPS = (20, 40, 100)
NEGLIGIBLE = 1e-9
MARGIN = 0.02
RARE_ROWS = (30, 60, 120, 200, 400)
SIZES_OF_DIFFERENCES = (0.9, 0.5, 0.25)
WORSE = 0.02
"""Share of the rows that the tuned model answers worse."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.intervals")
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--only", nargs="*", choices=sorted(TABLES), default=sorted(TABLES))
    options = parser.parse_args()
    for name in options.only:
        print(f"\n{name}\n")
        for line in TABLES[name](options.runs):
            print(f"| {' | '.join(line)} |", flush=True)


def _rule(count: int) -> list[str]:
    return ["---"] * count


def share_table(runs: int) -> Iterator[list[str]]:
    """Yield the exact coverage of the interval of a share, for every size and true share."""
    yield ["rows", *(f"p = {share}" for share in SHARES)]
    yield _rule(1 + len(SHARES))
    for n in SIZES:
        intervals = [mean_interval([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
        yield [str(n), *(f"{100 * _covered(n, share, intervals):.1f}" for share in SHARES)]


def _covered(n: int, share: float, intervals: Sequence[Interval]) -> float:
    return math.fsum(
        math.comb(n, k) * share**k * (1 - share) ** (n - k)
        for k, interval in enumerate(intervals)
        if interval.low <= share <= interval.high
    )


def pair_table(runs: int) -> Iterator[list[str]]:
    """Yield the exact coverage of the interval of a paired difference of shares."""
    yield ["rows", "true difference", *(f"{100 * d:g} % differ" for d in DISCORDANT)]
    yield _rule(2 + len(DISCORDANT))
    for n in SIZES:
        known: dict[tuple[int, int], Interval] = {}
        for delta in DELTAS:
            cells = (_covered_pairs(n, d, delta, known) for d in DISCORDANT)
            yield [str(n), f"{delta:g}", *(f"{100 * cell:.1f}" for cell in cells)]


def _covered_pairs(
    n: int, discordant: float, delta: float, known: dict[tuple[int, int], Interval]
) -> float:
    up, down = (discordant + delta) / 2, (discordant - delta) / 2
    covered = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            chance = _trinomial(n, b, c, up, down)
            if chance < NEGLIGIBLE:
                continue
            if (b, c) not in known:
                baseline = [0.0] * b + [1.0] * c + [1.0] * (n - b - c)
                tuned = [1.0] * b + [0.0] * c + [1.0] * (n - b - c)
                known[b, c] = paired_difference(baseline, tuned)
            # The ends are found by bisection, and the truth may be one of them.
            if known[b, c].low - 1e-9 <= delta <= known[b, c].high + 1e-9:
                covered += chance
    return covered


def _trinomial(n: int, b: int, c: int, up: float, down: float) -> float:
    if (up == 0 and b) or (down == 0 and c):
        return 0.0
    log = math.lgamma(n + 1) - math.lgamma(b + 1) - math.lgamma(c + 1) - math.lgamma(n - b - c + 1)
    log += b * math.log(up) if b else 0.0
    log += c * math.log(down) if c else 0.0
    return math.exp(log + (n - b - c) * math.log(1 - up - down))


def rare_table(runs: int) -> Iterator[list[str]]:
    """Yield how often differences of the margin, in rare rows, are called below it.

    Each row with another value is better or worse by the same size; one in fifty is worse.
    """
    yield ["rows", *(f"differences of {size:g}" for size in SIZES_OF_DIFFERENCES)]
    yield _rule(1 + len(SIZES_OF_DIFFERENCES))
    for n in RARE_ROWS:
        cells = (_share_below(n, size, runs) for size in SIZES_OF_DIFFERENCES)
        yield [str(n), *(f"{100 * cell:.1f} %" for cell in cells)]


def _share_below(n: int, size: float, runs: int) -> float:
    rng, below = random.Random(n), 0
    better = MARGIN / size + WORSE
    for _ in range(runs):
        draws = [rng.random() for _ in range(n)]
        baseline = [size * (better <= draw < better + WORSE) for draw in draws]
        tuned = [size * (draw < better) for draw in draws]
        below += paired_difference(baseline, tuned, bounds=(0, 1)).high < MARGIN
    return below / runs


def group_table(runs: int) -> Iterator[list[str]]:
    """Yield the simulated coverage for rows in groups, of equal and of very different sizes."""
    yield ["values", "groups", *(f"{m} of {s}" for s in ("6 rows", "1 to 50 rows") for m in GROUPS)]
    yield _rule(2 + 2 * len(GROUPS))
    draws: dict[str, tuple[Draw, float]] = {
        "share 0.5": (lambda rng, sizes, alike: _draw_share(rng, sizes, alike, 0.5), 0.5),
        "share 0.9": (lambda rng, sizes, alike: _draw_share(rng, sizes, alike, 0.9), 0.9),
        "paired shares": (_draw_pairs, 0.04),
        "continuous values": (_draw_numbers, 0.0),
        "skewed losses": (_draw_losses, math.exp(0.32)),
    }
    for name, (draw, truth) in draws.items():
        for alike in (0.1, 0.5):
            cells = []
            for equal in (True, False):
                for count in GROUPS:
                    rng, hits = random.Random(count), 0
                    for _ in range(runs):
                        interval = draw(rng, _sizes(rng, count, equal), alike)
                        hits += interval.low <= truth <= interval.high
                    cells.append(f"{100 * hits / runs:.1f}")
            yield [name, f"correlation {alike:g}", *cells]


Draw = Callable[[random.Random, Sequence[int], float], Interval]


def _sizes(rng: random.Random, count: int, equal: bool) -> list[int]:
    if equal:
        return [6] * count
    return [min(50, max(1, round(rng.lognormvariate(1.3, 1.0)))) for _ in range(count)]


def _groups(sizes: Sequence[int]) -> list[int]:
    return [group for group, size in enumerate(sizes) for _ in range(size)]


def _beta(rng: random.Random, mean: float, alike: float) -> float:
    scale = (1 - alike) / alike
    return rng.betavariate(mean * scale, (1 - mean) * scale)


def _draw_share(rng: random.Random, sizes: Sequence[int], alike: float, share: float) -> Interval:
    values: list[float] = []
    for size in sizes:
        mean = _beta(rng, share, alike)
        values += [float(rng.random() < mean) for _ in range(size)]
    return mean_interval(values, groups=_groups(sizes))


def _draw_pairs(rng: random.Random, sizes: Sequence[int], alike: float) -> Interval:
    """A fifth of the rows differ; the tuned model is right in 60 % of them."""
    baseline: list[float] = []
    tuned: list[float] = []
    for size in sizes:
        differ, better = _beta(rng, 0.2, alike), _beta(rng, 0.6, alike)
        for _ in range(size):
            is_better = float(rng.random() < better)
            is_different = rng.random() < differ
            tuned.append(is_better if is_different else 1.0)
            baseline.append(1.0 - is_better if is_different else 1.0)
    return paired_difference(baseline, tuned, groups=_groups(sizes))


def _normals(rng: random.Random, sizes: Sequence[int], alike: float) -> Iterator[float]:
    for size in sizes:
        mean = rng.gauss(0, math.sqrt(alike))
        yield from (mean + rng.gauss(0, math.sqrt(1 - alike)) for _ in range(size))


def _draw_numbers(rng: random.Random, sizes: Sequence[int], alike: float) -> Interval:
    return mean_interval([*_normals(rng, sizes, alike)], groups=_groups(sizes), resamples=500)


def _draw_losses(rng: random.Random, sizes: Sequence[int], alike: float) -> Interval:
    values = [math.exp(0.8 * x) for x in _normals(rng, sizes, alike)]
    bounds = (0.0, math.inf)
    return mean_interval(values, groups=_groups(sizes), resamples=500, bounds=bounds)


@dataclass(frozen=True)
class World:
    """True shares of right answers, from which runs are simulated."""

    name: str
    tuned: float
    baselines: dict[str, float]
    validation: bool = True


NAMES = ("nearest", "linear", "zero-shot", "retrieved-shots")
WORLDS = (
    World("one equally good baseline", 0.85, {"linear": 0.85}),
    World("four equally good baselines", 0.85, dict.fromkeys(NAMES, 0.85)),
    World("four baselines, one equally good, the others 3 points worse", 0.85,
          dict(zip(NAMES, (0.82, 0.85, 0.82, 0.82), strict=True))),
    World("the same without validation rows", 0.85,
          dict(zip(NAMES, (0.82, 0.85, 0.82, 0.82), strict=True)), validation=False),
    World("tuned exactly the margin better than four", 0.87, dict.fromkeys(NAMES, 0.85)),
    World("tuned 10 points better", 0.95, dict.fromkeys(NAMES, 0.85)),
    World("tuned 10 points worse than one", 0.75,
          dict(zip(NAMES, (0.7, 0.85, 0.7, 0.7), strict=True))),
)  # fmt: skip
VALIDATION_ROWS = 50


def verdict_table(runs: int) -> Iterator[list[str]]:
    """Yield the share of each word in simulated runs; models err on the same hard rows partly."""
    words = ("FINE-TUNE", "SMALL CLASSIFIER or PROMPT", "NOT ENOUGH EVIDENCE")
    yield ["true scores", "test rows", *words]
    yield _rule(2 + len(words))
    for world in WORLDS:
        for n in (100, 500):
            rng, counts = random.Random(n), Counter[str]()
            with tempfile.TemporaryDirectory() as folder:
                for _ in range(runs):
                    counts[_simulate(world, n, rng, Path(folder))] += 1
            cells = (
                counts["FINE-TUNE"],
                counts["SMALL CLASSIFIER"] + counts["PROMPT"],
                counts["NOT ENOUGH EVIDENCE"],
            )
            yield [world.name, str(n), *(f"{100 * cell / runs:.1f} %" for cell in cells)]


def _simulate(world: World, n: int, rng: random.Random, folder: Path) -> str:
    case = Case(folder, test=n)
    validation = [rng.gauss(0, 1) for _ in range(VALIDATION_ROWS)]
    hard = [rng.gauss(0, 1) for _ in range(n)]
    for name, share in world.baselines.items():
        score = sum(_answer(rng, validation, share)) / VALIDATION_ROWS if world.validation else None
        case.baseline(name, _answer(rng, hard, share), score)
    case.model("tuned", _answer(rng, hard, world.tuned))
    return str(case.judge()["word"])


def _answer(rng: random.Random, hard: Sequence[float], share: float) -> list[float]:
    """Return right/wrong values: half of the variance is the row's, which all models share."""
    from statistics import NormalDist

    limit = NormalDist().inv_cdf(share)
    root = math.sqrt(0.5)
    return [float(root * row + root * rng.gauss(0, 1) < limit) for row in hard]


@dataclass(frozen=True)
class Design:
    """Test rows in clusters of near-duplicates, and the rows that baselines with a model answer."""

    clusters: int
    rows_each: int
    asked: int
    """Rows of a costly baseline; 0: all."""

    @property
    def name(self) -> str:
        asked = f", baselines on {self.asked}" if self.asked else ""
        return f"{self.clusters * self.rows_each} rows of {self.clusters} prompts{asked}"

    @property
    def groups(self) -> list[str]:
        return [f"c{row // self.rows_each}" for row in range(self.clusters * self.rows_each)]


DESIGNS = (
    Design(21, 5, 0),
    Design(21, 5, 30),
    Design(40, 5, 0),
    Design(40, 5, 100),
    Design(100, 5, 0),
    Design(100, 5, 100),
    Design(100, 1, 0),
    Design(300, 1, 100),
)
ALIKE = 0.9
"""Correlation of a model's answers to the forms of one prompt, before they are right or wrong."""


def cluster_table(runs: int) -> Iterator[list[str]]:
    """Yield how often two equally good models differ clearly, and what intervals cover."""
    yield [
        "test rows",
        "called different, rows independent",
        "called different, rows clustered",
        "coverage",
    ]
    yield _rule(4)
    for design in DESIGNS:
        rng = random.Random(design.name)
        different, by_row, covered = 0, 0, 0
        for _ in range(runs):
            rows = _draw_asked(rng, design)
            hard = [rng.gauss(0, 1) for _ in range(design.clusters)]
            baseline, tuned = (_answer_alike(rng, hard, design, 0.85) for _ in range(2))
            values = [baseline[row] for row in rows], [tuned[row] for row in rows]
            groups = [design.groups[row] for row in rows]
            found = compare(*values, higher_is_better=True, groups=groups)
            different += found.outcome != "unclear"
            by_row += compare(*values, higher_is_better=True).outcome != "unclear"
            covered += found.difference.low <= 0 <= found.difference.high
        cells = (100 * count / runs for count in (by_row, different, covered))
        shown = [f"{cell:.1f} %" for cell in cells]
        yield [design.name, *shown]


def clustered_verdict_table(runs: int) -> Iterator[list[str]]:
    """Yield the share of each word, with clustered rows and baselines on a part of the rows."""
    words = ("FINE-TUNE", "SMALL CLASSIFIER or PROMPT", "NOT ENOUGH EVIDENCE")
    yield ["true scores", "test rows", *words]
    yield _rule(2 + len(words))
    for world in (WORLDS[1], WORLDS[2], WORLDS[5]):
        for design in DESIGNS:
            rng, counts = random.Random(design.name), Counter[str]()
            with tempfile.TemporaryDirectory() as folder:
                for _ in range(runs):
                    counts[_simulate_clustered(world, design, rng, Path(folder))] += 1
            cells = (
                counts["FINE-TUNE"],
                counts["SMALL CLASSIFIER"] + counts["PROMPT"],
                counts["NOT ENOUGH EVIDENCE"],
            )
            yield [world.name, design.name, *(f"{100 * cell / runs:.1f} %" for cell in cells)]


def _simulate_clustered(world: World, design: Design, rng: random.Random, folder: Path) -> str:
    case = Case(folder, test=len(design.groups))
    validation, hard = (
        [rng.gauss(0, 1) for _ in range(n)] for n in (VALIDATION_ROWS, design.clusters)
    )
    asked = _draw_asked(rng, design)
    for name, share in world.baselines.items():
        score = sum(_answer(rng, validation, share)) / VALIDATION_ROWS
        values = _answer_alike(rng, hard, design, share)
        rows = asked if name in ("zero-shot", "retrieved-shots") else range(len(values))
        case.baseline(name, {row: values[row] for row in rows}, score, design.groups)
    case.model("tuned", _answer_alike(rng, hard, design, world.tuned), design.groups)
    return str(case.judge()["word"])


def _draw_asked(rng: random.Random, design: Design) -> list[int]:
    rows = range(len(design.groups))
    return sorted(rng.sample(rows, design.asked)) if design.asked else [*rows]


def _answer_alike(
    rng: random.Random, hard: Sequence[float], design: Design, share: float
) -> list[float]:
    """Return right/wrong values; the forms of one prompt are nearly always answered alike."""
    from statistics import NormalDist

    limit, root, values = NormalDist().inv_cdf(share), math.sqrt(0.5), []
    for prompt in hard:
        latent = root * prompt + root * rng.gauss(0, 1)
        for _ in range(design.rows_each):
            form = math.sqrt(ALIKE) * latent + math.sqrt(1 - ALIKE) * rng.gauss(0, 1)
            values.append(float(form < limit))
    return values


def length_table(runs: int) -> Iterator[list[str]]:
    """Yield the coverage of the share of wins at equal length, and how often it looks above 0.5.

    Answers are longer than the other ones in three of four rows.
    """
    yield [
        "share at equal length",
        "longer answers win",
        "60 rows",
        "100 rows",
        "400 rows",
        "> 0.5",
    ]
    yield _rule(6)
    for share in (0.5, 0.7, 0.9):
        for effect, name in ((0.0, "no"), (2.0, "often"), (4.0, "nearly always")):
            found = {n: _draw_equal_lengths(share, effect, n, runs) for n in (60, 100, 400)}
            covered = [
                f"{100 * sum(i.low <= share <= i.high for i in intervals) / len(intervals):.1f}"
                for intervals in found.values()
            ]
            above = sum(i.low > 0.5 for i in found[100]) / len(found[100])
            yield [f"{share:g}", name, *covered, f"{100 * above:.1f} %"]


def _draw_equal_lengths(share: float, effect: float, n: int, runs: int) -> list[Interval]:
    rng, found = random.Random(0), []
    for _ in range(runs):
        differences = [round(rng.gauss(70, 100)) for _ in range(n)]
        logits = [math.log(share / (1 - share)) + effect * math.tanh(d / 120) for d in differences]
        wins = [float(rng.random() < 1 / (1 + math.exp(-logit))) for logit in logits]
        for measured in LengthControl(wins, differences, [None] * n).measurements("wins"):
            assert measured.interval is not None
            found.append(Interval(0.0, *measured.interval, n))
    return found


TABLES: dict[str, Callable[[int], Iterator[list[str]]]] = {
    "shares": share_table,
    "pairs": pair_table,
    "rare": rare_table,
    "groups": group_table,
    "verdicts": verdict_table,
    "clusters": cluster_table,
    "clustered-verdicts": clustered_verdict_table,
    "lengths": length_table,
}

if __name__ == "__main__":
    main()
