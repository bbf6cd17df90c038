"""A study as people read it, and as programs do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tunesmith.cli.render import Block, Cell, Line, Sheet
from tunesmith.contracts import Estimate, Memory
from tunesmith.estimate.compare_techniques import HERE, Row, Study
from tunesmith.estimate.hardware import Range
from tunesmith.estimate.memory_peak import Fit, fit, peak_of
from tunesmith.estimate.savings import Saving
from tunesmith.terminal import unicode
from tunesmith.text import bytes_text, count_text, duration_text, one_line

SCHEMA = "tunesmith.plan/1"
TRACING = Line("a first estimate; now tracing the training step ...", "dim")
FIT_STYLES: dict[Fit, str] = {"yes": "good", "maybe": "odd", "no": "bad"}
BAR = 32
"""Columns of the longest bar."""
DEVICES = {"cuda": "a GPU", "cpu": "a processor"}


# --------------------------------------------------------------------------- for people


def blocks(study: Study) -> list[Block]:
    """The whole answer as lines and tables."""
    row, estimate = study.chosen, study.estimate(study.chosen)
    found: list[Block] = [Line(_title(study, estimate), "strong")]
    if estimate is None:
        found.append(Line(f"{row.name} {row.problem}", "odd"))
    else:
        found += [Line(_work(estimate), "dim"), Line(), *_memory(estimate), Line()]
    found += [*_fits(study), Line(), *_costs(study)]
    found += _savings(study)
    found += [Line(), *(Line(f"- {note}", "dim") for note in notes(study))]
    return found


def _title(study: Study, estimate: Estimate | None) -> str:
    model = one_line(study.plan.found_model.description, 120)
    title = f"{study.chosen.name} on {model}"
    if estimate is None:
        return title
    own = study.here.kind == study.primary
    device = one_line(study.here.name) if own else DEVICES[study.primary]
    return f"{title}, for {device} ({estimate.method})"


def _work(estimate: Estimate) -> str:
    tokens = f"{count_text(estimate.tokens, 'token')} in {count_text(estimate.steps, 'step')}"
    return (
        f"{tokens}; longest row {count_text(estimate.longest, 'token')}, at most "
        f"{count_text(estimate.micro_batch_tokens, 'token')} at once"
    )


def _memory(estimate: Estimate) -> Iterator[Block]:
    """By phase, then the binding phase by component."""
    peak = peak_of(estimate)
    rows: list[list[Cell]] = []
    for phase, memory in estimate.memory.items():
        binds = phase == peak.phase
        name: Cell = (f"{phase}, which binds", "strong") if binds else phase
        rows.append([name, *(size(n) for n in (memory.low, memory.expected, memory.high))])
    yield Sheet(["memory by phase", "low", "expected", "high"], rows, right=(1, 2, 3))
    yield Line()
    yield _components(peak.phase, estimate.memory[peak.phase])


def _components(phase: str, memory: Memory) -> Block:
    parts = sorted(memory.components.items(), key=lambda item: -item[1])
    largest = max((share for _, share in parts), default=0) or 1
    block, half = ("█", "▌") if unicode(sys.stdout) else ("#", "")
    rows: list[list[Cell]] = []
    for name, share in parts:
        if share <= 0:
            continue
        width = share / largest * BAR
        bar = block * int(width) + (half if width - int(width) >= 0.5 else "")
        percent = f"{share / max(1, memory.expected):.0%}"
        rows.append([name, size(share), percent, (bar or half or block, "good")])
    return Sheet([f"what {phase} needs", "expected", "share", ""], rows, right=(1, 2))


def _fits(study: Study) -> Iterator[Block]:
    """Every technique on every class of GPU and on this machine."""
    classes = [str(size) for size in study.hardware.classes()]
    rows: list[list[Cell]] = []
    unknown = []
    for row in study.rows:
        estimate = study.estimate(row)
        if estimate is None:
            unknown.append(Line(f"{row.name}: {row.problem}", "dim"))
            continue
        peak, verdicts = peak_of(estimate), study.fits(row)
        cells: list[Cell] = [_named(row), f"{gib(peak.low)} to {gib(peak.high)}"]
        for column in (*classes, HERE):
            verdict = verdicts.get(column)
            cells.append((verdict, FIT_STYLES[verdict]) if verdict else "")
        rows.append(cells)
    if rows:
        headers = ["fits on", "GiB", *(f"{name} GB" for name in classes), HERE]
        yield Sheet(headers, rows, right=(1,))
    yield from unknown


def _costs(study: Study) -> Iterator[Block]:
    """Time and cost of each technique on the cheapest GPU and here."""
    rows: list[list[Cell]] = []
    for row in study.rows:
        times, costs = study.times(row), study.costs(row)
        gpu = study.cheapest(row)
        if gpu is not None:
            sure = fit(peak_of(row.found["cuda"]), gpu.usable) == "yes"
            name = gpu.name if sure else f"{gpu.name}, if it fits"
            rows.append([_named(row), name, span(times[gpu.name]), money(costs[gpu.name])])
        elif row.found:
            rows.append([_named(row), "no single GPU of the table", "", ""])
        if HERE in times:
            rows.append(["" if gpu else _named(row), HERE, span(times[HERE]), ""])
    if rows:
        yield Sheet(["training alone", "cheapest on", "time", "cost"], rows)


def _savings(study: Study) -> Iterator[Block]:
    found = study.savings()
    if not found:
        return
    limit, estimate = study.limit(), study.estimate(study.chosen)
    short = limit is not None and estimate is not None and peak_of(estimate).high > limit
    rows: list[list[Cell]] = [_saving(study, saving) for saving in found]
    yield Line()
    title = f"to make it fit on {HERE}" if short else "to save memory"
    yield Sheet([title, "saves", "then fits on", "price"], rows, right=(1,))


def _saving(study: Study, saving: Saving) -> list[Cell]:
    changes = "\n".join(saving.changes)
    return [changes, size(saving.saves), _place(study, saving), "\n".join(saving.prices)]


def _place(study: Study, saving: Saving) -> Cell:
    """Where a run fits after a change."""
    if saving.enough:
        return HERE, "good"
    if study.primary != "cuda":
        return "still too much here", "odd"
    size = study.class_for(saving.peak)
    return f"{size} GB" if size else "none of these"


def notes(study: Study) -> list[str]:
    """What the answer rests on, in sentences."""
    found = []
    estimate = study.estimate(study.chosen)
    if estimate is not None:
        found += list(estimate.notes)
    here = study.here
    room = f"{size(here.memory)} available" if here.memory is not None else "memory not known"
    cores = f", {count_text(here.cores, 'core')}" if here.cores else ""
    found.append(f"{HERE}: {one_line(here.name)}{cores}, {room}")
    found += _learned(study, estimate)
    untraced = [
        row.name
        for row in study.rows
        if row.found.get(study.primary) and row.found[study.primary].method == "analytic"
    ]
    if untraced and len(untraced) < len([row for row in study.rows if row.found]):
        found.append(f"only estimated, not traced: {', '.join(untraced)}")
    first, last = study.hardware.dates()
    table = ", ".join(study.hardware.files) or "the packaged table"
    found.append(
        f"one GPU; time is work over tabulated throughput, prices in US dollars an hour were read "
        f"{first} to {last} ({table}); baselines and evaluation come on top of training"
    )
    return found


def _learned(study: Study, estimate: Estimate | None) -> Iterator[str]:
    """What earlier runs on this device contributed."""
    if estimate is None:
        return
    name = study.chosen.name
    raw = study.chosen.found[study.here.kind]
    correction = study.calibration.correction(raw, name)
    if correction is not None:
        yield (
            f"memory on {HERE} is corrected by {count_text(correction.runs, 'earlier run')}: "
            f"they took {correction.ratio:.2f} times what was expected"
        )
    pace = study.calibration.throughput(name, raw)
    if pace is not None:
        yield (
            f"time on {HERE} goes by earlier runs: "
            f"{pace[0] / 1e9:,.0f} to {pace[1] / 1e9:,.0f} GFLOP/s"
        )


def _named(row: Row) -> Cell:
    return (f"{row.name} *", "strong") if row.chosen else row.name


def size(number: int) -> str:
    """Bytes, in binary units as GPUs have them."""
    return bytes_text(number, binary=True)


def gib(number: int) -> str:
    """GiB as a bare figure: three digits."""
    amount = number / (1 << 30)
    return f"{amount:.2f}" if amount < 1 else f"{amount:.1f}"


def span(time: Range) -> str:
    """From the shortest to the longest time."""
    low, high = duration_text(time[0]), duration_text(time[1])
    return low if low == high else f"{low} to {high}"


def money(cost: Range) -> str:
    """From the lowest to the highest cost, in US dollars."""
    low, high = (_dollars(amount) for amount in cost)
    return low if low == high else f"{low} to {high}"


def _dollars(amount: float) -> str:
    if amount < 0.01:
        return "under $0.01"
    return f"${amount:,.2f}" if amount < 10 else f"${amount:,.0f}"


# --------------------------------------------------------------------------- for programs


def as_object(study: Study) -> dict[str, Any]:
    """The whole answer, ``tunesmith.plan/1``. Sizes are bytes, times seconds, money US dollars."""
    known = {row.name: row for row in study.rows if study.estimate(row) is not None}
    estimates = {name: study.estimate(row) for name, row in known.items()}
    found = {name: estimate for name, estimate in estimates.items() if estimate is not None}
    own = {name: study.estimate_here(row) for name, row in known.items()}
    return {
        "schema": SCHEMA,
        "model": study.plan.found_model.description,
        "technique": study.chosen.name,
        "device": study.primary,
        "memory": {name: _phases(estimate) for name, estimate in found.items()},
        "peak": {name: _peak(estimate) for name, estimate in found.items()},
        "work": {name: _figures(estimate) for name, estimate in found.items()},
        "fits": {name: study.fits(row) for name, row in known.items()},
        "time": {name: _ranges(study.times(row)) for name, row in known.items()},
        "cost": {name: _ranges(study.costs(row)) for name, row in known.items()},
        "economies": [_economy(saving) for saving in study.savings()],
        "this_machine": {
            "device": study.here.kind,
            "name": study.here.name,
            "available": study.here.memory,
            "memory": {name: _phases(e) for name, e in own.items() if e is not None},
        },
        "unknown": {row.name: row.problem for row in study.rows if row.problem},
        "notes": notes(study),
        "gpus": [_gpu(study, gpu.name) for gpu in study.hardware.gpus],
        "calibration": {"runs": len(study.calibration.runs)},
        "plan": study.plan.to_json(),
    }


def _phases(estimate: Estimate) -> dict[str, Any]:
    return {
        phase: {**asdict(memory), "components": dict(memory.components)}
        for phase, memory in estimate.memory.items()
    }


def _peak(estimate: Estimate) -> dict[str, Any]:
    peak = peak_of(estimate)
    components = estimate.memory[peak.phase].components
    binding = max(components, key=lambda name: components[name], default="")
    return {**peak.to_json(), "phase": peak.phase, "component": binding}


def _figures(estimate: Estimate) -> dict[str, Any]:
    names = ("method", "flops", "steps", "tokens", "longest", "micro_batch_tokens")
    record = {**asdict(estimate)}
    return {**{name: record[name] for name in names}, "notes": list(estimate.notes)}


def _ranges(found: dict[str, Range]) -> dict[str, dict[str, float]]:
    return {name: {"low": low, "high": high} for name, (low, high) in found.items()}


def _economy(saving: Saving) -> dict[str, Any]:
    return {
        "changes": list(saving.changes),
        "prices": list(saving.prices),
        "saves": saving.saves,
        **saving.peak.to_json(),
        "enough": saving.enough,
    }


def _gpu(study: Study, name: str) -> dict[str, Any]:
    gpu = next(gpu for gpu in study.hardware.gpus if gpu.name == name)
    return {
        "name": gpu.name,
        "gigabytes": gpu.gigabytes,
        "usable": gpu.usable,
        "source": gpu.source,
        "date": gpu.date,
        "prices": [asdict(price) for price in gpu.prices],
    }
