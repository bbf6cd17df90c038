"""Measure the monitor on simulated streams: ``python benchmarks/simulate.py PART...``.

Parts: ``alarms``, ``changes``, ``ab``, ``million``, ``retrain``, ``gate``. The option ``--scale
0.1`` simulates less.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from simulated_requests import CHANGES, RIGHT_AFTER, Pool, make_pool

from tunesmith.statistics import mean_interval
from tunesmith_evidence.statistics import compare
from tunesmith_monitor.budget import Budget
from tunesmith_monitor.candidate import CONFIDENCE_NEW
from tunesmith_monitor.decision import Inputs, decide
from tunesmith_monitor.features import FeatureSpace
from tunesmith_monitor.label_test import LabelTest
from tunesmith_monitor.monitor import Monitor, MonitorOptions
from tunesmith_monitor.sequential_comparison import BETS
from tunesmith_monitor.watch import Watch, WindowLayer
from tunesmith_monitor.window_test import Group, Reference

RUN_LENGTH, WINDOW, TOLERANCE = 20_000, 50, 0.02
REFERENCE, HORIZON, AUDITED = 600, 2_000, 0.1
BEFORE = 400
LAYERS = ("inputs", "confidence", "labels")


class Stream:
    """The three layers with a fresh reference; feed it rows of features."""

    def __init__(self, space: FeatureSpace, rows: np.ndarray, sure: np.ndarray, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        budget, chosen = Budget(RUN_LENGTH), self.rng.integers(0, len(rows), REFERENCE)
        self.inputs = WindowLayer.build(
            Reference(rows[chosen], space.groups), WINDOW, budget.rate("inputs")
        )
        group = Group("confidence", slice(0, 1), falls=True, tolerance=TOLERANCE)
        self.confidence = WindowLayer.build(
            Reference(sure[chosen, None], [group]), WINDOW, budget.rate("confidence")
        )
        right = (self.rng.random(REFERENCE) < sure[chosen]).astype(float)
        floor = mean_interval(right.tolist()).low - TOLERANCE
        self.labels = LabelTest.start(floor, 1 / budget.rate("labels"))

    def feed(
        self, rows: np.ndarray, sure: np.ndarray, count: int, factor: float = 1.0
    ) -> dict[str, int]:
        """Feed random requests; return the number of the first alarm of each layer."""
        first: dict[str, int] = {}
        chosen = self.rng.integers(0, len(rows), count)
        audited = self.rng.random(count) < AUDITED
        right = self.rng.random(count) < sure[chosen] * factor
        for n, i in enumerate(chosen, 1):
            if "inputs" not in first and self.inputs.add(rows[i].tolist(), ()):
                first["inputs"] = n
            if "confidence" not in first and self.confidence.add([float(sure[i])], ()):
                first["confidence"] = n
            if audited[n - 1] and "labels" not in first and self.labels.add(float(right[n - 1])):
                first["labels"] = n
        return first


def measure_alarms(space: FeatureSpace, pool: Pool, scale: float) -> None:
    """Streams without change: alarms of each layer against the budget."""
    rows, streams = space.transform(pool.texts), max(20, int(1_000 * scale))
    found = dict.fromkeys(LAYERS, 0)
    for seed in range(streams):
        for layer in Stream(space, rows, pool.confidence, seed).feed(
            rows, pool.confidence, HORIZON
        ):
            found[layer] += 1
    total = sum(found.values())
    print(f"{streams} streams of {HORIZON:,} requests without change, {REFERENCE} reference rows:")
    print(f"  alarms {found}, together {total}")
    print(f"  budget 1 per {RUN_LENGTH:,} requests: at most {streams * HORIZON / RUN_LENGTH:.0f}")


def measure_changes(space: FeatureSpace, pool: Pool, scale: float) -> None:
    """Seven changes: detection rate and median delay of each layer."""
    rows, streams = space.transform(pool.texts), max(5, int(100 * scale))
    print(f"{streams} streams for each change; found within {HORIZON:,} requests (median delay):")
    for name, options in CHANGES.items():
        after = make_pool(np.random.default_rng(1), 5_000, **options)  # type: ignore[arg-type]
        after_rows = space.transform(after.texts)
        delays: dict[str, list[int]] = {layer: [] for layer in LAYERS}
        early = 0
        for seed in range(streams):
            stream = Stream(space, rows, pool.confidence, 10_000 + seed)
            early += bool(stream.feed(rows, pool.confidence, BEFORE))
            found = stream.feed(after_rows, after.confidence, HORIZON, RIGHT_AFTER.get(name, 1.0))
            for layer, delay in found.items():
                delays[layer].append(delay)
        cells = (
            f"{layer} {len(d) / streams:4.0%} ({int(np.median(d)) if d else '-'})"
            for layer, d in delays.items()
        )
        print(f"  {name:30} {'   '.join(cells)}   false before: {early}")


def compare_sequentially(
    rates: tuple[float, float], tests: int, users: int, seed: int
) -> np.ndarray:
    """Return the signed number of users at each decision, looking after every user; 0: none."""
    rng = np.random.default_rng(seed)
    log_STK = np.zeros((2, tests, len(BETS)))
    total, decided = np.full(tests, 0.5), np.zeros(tests, int)
    for user in range(1, users + 1):
        second = rng.random(tests) < 0.5
        outcome = (rng.random(tests) < np.where(second, rates[1], rates[0])).astype(float)
        payoff = BETS * 0.5 * ((outcome - total / user) * np.where(second, 2, -2))[:, None]
        log_STK += np.log1p(np.stack([payoff, -payoff]))
        better, worse = np.exp(np.minimum(log_STK, 500)).mean(axis=2) >= 40
        new = decided == 0
        decided[new & better], decided[new & worse & ~better] = user, -user
        total += outcome
    return decided


def measure_comparisons(scale: float) -> None:
    """A/B tests: type I error at any look; power and delay beside a fixed-sample test."""
    tests = max(100, int(1_000 * scale))
    for rate in (0.5, 0.7, 0.95):
        decided = compare_sequentially((rate, rate), tests, 5_000, seed=1)
        print(f"A/A {rate}: {(decided != 0).mean():.3f} of {tests} tests decide in 5,000 looks")
    for rates in ((0.7, 0.75), (0.7, 0.8), (0.7, 0.9), (0.8, 0.7)):
        mean, gap = sum(rates) / 2, abs(rates[1] - rates[0])
        fixed = int(np.ceil(4 * (1.96 + 0.8416) ** 2 * mean * (1 - mean) / gap**2))
        decided = compare_sequentially(rates, tests, 4 * fixed, seed=2)
        right = np.sign(decided) == np.sign(rates[1] - rates[0])
        print(
            f"A/B {rates[0]} {rates[1]}: fixed-sample test {fixed:,} users for 80 %; sequential "
            f"{(right & (abs(decided) <= fixed)).mean():.0%} by then, {right.mean():.0%} in "
            f"{4 * fixed:,}, median {int(np.median(abs(decided)[right])):,}; wrong direction "
            f"{((decided != 0) & ~right).mean():.3f}"
        )


def measure_million(space: FeatureSpace, pool: Pool, scale: float) -> None:
    """Requests per second, and memory, of the whole path from a file to the stored state."""
    count = int(1_000_000 * scale)
    with tempfile.TemporaryDirectory() as name:
        folder, options = Path(name), MonitorOptions(run_length=RUN_LENGTH, window=WINDOW)
        watch = Watch.build(
            space, space.transform(pool.texts[:REFERENCE]), pool.confidence[:REFERENCE].tolist(),
            0.8, Budget(RUN_LENGTH), window=WINDOW, tolerance=TOLERANCE,
        )  # fmt: skip
        monitor = Monitor(folder, folder, options, watch, None)
        lines = [
            json.dumps({"prompt": text, "confidence": float(sure)}) + "\n"
            for text, sure in zip(pool.texts, pool.confidence, strict=True)
        ]
        for part in range(1, 11):
            chosen = np.random.default_rng(part).integers(0, len(lines), count // 10)
            path = folder / f"{part}.jsonl"
            path.write_text("".join(lines[i] for i in chosen), encoding="utf-8")
            start = time.perf_counter()
            monitor.read([path])
            monitor.save()
            seconds = time.perf_counter() - start
            path.unlink()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            size = (folder / "state.json").stat().st_size / 1024
            print(
                f"  {watch.requests:>9,} requests: {count / 10 / seconds:,.0f} per second, peak "
                f"memory {peak:.0f} MiB, state {size:.0f} KiB, open alarms {len(watch.alarms)}",
                flush=True,
            )


def simulate_upkeep(
    policy: str, rng: np.random.Generator, volume: float, drift: float, audits: int
) -> float:
    """Return the cost of 24 months: errors, labels and trainings, under one policy."""
    excess, rows, cost = 0.0, 0, 0.0
    exponent = rng.uniform(0.3, 0.7)  # The decision assumes 0.5.
    labels: list[int] = []
    for month in range(24):
        if rng.random() < drift:
            excess += rng.uniform(0, 0.15)
        error = min(0.9, 0.1 + excess)
        cost += error * volume
        if policy == "never":
            continue
        labels = [*labels, *(rng.random(audits) < error).astype(int)][-200:]
        rows += audits
        cost += 0.5 * audits
        go = True
        if policy == "decide":
            now = mean_interval([float(label) for label in labels])
            inputs = Inputs(
                error_before=0.1, error_now=now.value, error_low=now.low, error_high=now.high,
                audited=len(labels), rows=rows, volume=volume, months=min(6, 23 - month), value=1,
                training_cost=200, label_cost=0.5, forgetting=0.002, first_rows=50, exponent=0.5,
            )  # fmt: skip
            decision = decide(inputs)
            if decision.word == "LABEL" and decision.labels <= 400:
                more = (rng.random(decision.labels) < error).astype(int).tolist()
                labels, rows = [*labels, *more], rows + decision.labels
                cost += 0.5 * decision.labels
                now = mean_interval([float(label) for label in labels])
                inputs = replace(
                    inputs, error_now=now.value, error_low=now.low, error_high=now.high,
                    audited=len(labels), rows=rows,
                )  # fmt: skip
                decision = decide(inputs)
            go = decision.word == "RETRAIN"
        if go:
            cost += 200
            excess *= (1 + rows / 50) ** -exponent
            rows, labels = 0, []
    return cost


def measure_policies(scale: float) -> None:
    """Total costs of deciding, training monthly and never training, in several settings."""
    streams = max(10, int(200 * scale))
    print(f"mean cost of 24 months over {streams} streams; value 1 per error, training 200:")
    for volume, drift in ((300, 0.05), (1_000, 0.2), (5_000, 0.1), (5_000, 0.4), (50_000, 0.2)):
        costs = {
            policy: np.mean(
                [
                    simulate_upkeep(policy, np.random.default_rng(seed), volume, drift, 40)
                    for seed in range(streams)
                ]
            )
            for policy in ("decide", "monthly", "never")
        }
        cells = "   ".join(f"{policy} {cost:,.0f}" for policy, cost in costs.items())
        print(f"  {volume:>6,} requests a month, change in {drift:.0%} of months: {cells}")


def measure_gate(scale: float) -> None:
    """Measure the share of candidates that the gate finds better on 120 new rows, at two levels."""
    trials = max(100, int(1_000 * scale))
    for gain in (-0.05, 0.0, 0.1, 0.2, 0.3):
        found = dict.fromkeys((0.95, CONFIDENCE_NEW), 0)
        for seed in range(trials):
            rng = np.random.default_rng(1_000 + seed)
            before, after = (rng.random(120) < 0.6 + g for g in (0.0, gain))
            for level in found:
                values = before.astype(float).tolist(), after.astype(float).tolist()
                found[level] += compare(*values, True, confidence=level).outcome == "better"
        cells = ", ".join(f"{n / trials:.1%} at {level}" for level, n in found.items())
        print(f"  candidate {gain:+.2f}: passes on new rows in {cells} ({trials} trials)")


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="+", help="alarms, changes, ab, million, retrain, gate")
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    space = FeatureSpace.fit(make_pool(rng, 1_000).texts)
    pool = make_pool(rng, 20_000)
    start = time.perf_counter()
    for part in given.parts:
        match part:
            case "alarms":
                measure_alarms(space, pool, given.scale)
            case "changes":
                measure_changes(space, pool, given.scale)
            case "ab":
                measure_comparisons(given.scale)
            case "million":
                measure_million(space, pool, given.scale)
            case "retrain":
                measure_policies(given.scale)
            case "gate":
                measure_gate(given.scale)
            case _:
                sys.exit(f"unknown part: {part}")
        print(f"{part}: {time.perf_counter() - start:.0f} s so far", flush=True)


if __name__ == "__main__":
    main()
