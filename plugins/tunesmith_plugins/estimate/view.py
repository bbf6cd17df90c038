"""Format a comparison of techniques as lines and tables, and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tunesmith.estimates import Estimate, PhaseMemory
from tunesmith.terminal import supports_unicode
from tunesmith.text import format_bytes, format_count, one_line
from tunesmith_cli.render import TableCell
from tunesmith_evidence.number_text import format_duration_range, format_rate, format_share
from tunesmith_plugins.estimate.blocks import Block, TableBlock, TextLine
from tunesmith_plugins.estimate.compare_techniques import (
    THIS_MACHINE,
    TechniqueComparison,
    TechniqueRow,
)
from tunesmith_plugins.estimate.hardware import Range
from tunesmith_plugins.estimate.memory_peak import MemoryFit, check_fit, compute_peak
from tunesmith_plugins.estimate.run_time import measure_load
from tunesmith_plugins.estimate.savings import Saving

SCHEMA = "tunesmith.plan/1"
TRACING = TextLine("analytic estimate; tracing the training step for a better one ...", "dim")
FIT_STYLES: dict[MemoryFit, str] = {"yes": "good", "maybe": "warning", "no": "bad"}
BAR_WIDTH = 32
"""Width of the longest bar in columns."""
NOTABLE_LOAD = 1.5
"""Other programs are mentioned if they can make the run this many times as long."""
DEVICES = {"cuda": "a GPU", "cpu": "a CPU"}


# --------------------------------------------------------------------------- lines and tables


def build_blocks(comparison: TechniqueComparison) -> list[Block]:
    """Build the output of ``tunesmith plan`` as lines and tables."""
    row, estimate = comparison.chosen, comparison.estimate(comparison.chosen)
    found: list[Block] = [TextLine(_title_text(comparison, estimate), "strong")]
    if estimate is None:
        found.append(TextLine(f"{row.name} {row.problem}", "warning"))
    else:
        found += [
            TextLine(_work_text(estimate, comparison.processes), "dim"),
            TextLine(),
            *_memory_tables(estimate, comparison.processes),
            TextLine(),
        ]
    found += [*_fit_table(comparison), TextLine(), *_cost_table(comparison)]
    found += _run_time_table(comparison)
    found += _savings_table(comparison)
    found += [TextLine(), *(TextLine(f"- {note}", "dim") for note in list_notes(comparison))]
    return found


def _title_text(comparison: TechniqueComparison, estimate: Estimate | None) -> str:
    model = one_line(comparison.plan.found_model.description, 120)
    title = f"{comparison.chosen.name} on {model}"
    if estimate is None:
        return title
    is_here = comparison.this_device.type == comparison.target_type
    device = one_line(comparison.this_device.name) if is_here else DEVICES[comparison.target_type]
    return f"{title}, for {device} ({estimate.method})"


def _work_text(estimate: Estimate, processes: int) -> str:
    tokens = f"{format_count(estimate.tokens, 'token')} in {format_count(estimate.steps, 'step')}"
    each = f", in each of {processes} processes" if processes > 1 else ""
    if estimate.pilot_steps:
        tokens += f", after up to {estimate.pilot_steps} steps of pilot runs for the learning rate"
    return (
        f"{tokens}; the longest row has {format_count(estimate.longest_row, 'token')}, a "
        f"micro-batch at most {format_count(estimate.micro_batch_tokens, 'token')}{each}"
    )


def _memory_tables(estimate: Estimate, processes: int) -> Iterator[Block]:
    """Yield a table of all phases, and a table with the components of the peak phase."""
    title = "memory by phase" if processes == 1 else "memory of each process"
    peak = compute_peak(estimate)
    rows: list[list[TableCell]] = []
    for phase, memory in estimate.memory.items():
        name: TableCell = (f"{phase} (peak)", "strong") if phase == peak.phase else phase
        rows.append([name, *(format_bytes(n) for n in (memory.low, memory.expected, memory.high))])
    yield TableBlock([title, "low", "expected", "high"], rows, right=(1, 2, 3))
    yield TextLine()
    yield _component_table(peak.phase, estimate.memory[peak.phase])


def _component_table(phase: str, memory: PhaseMemory) -> Block:
    parts = sorted(memory.components.items(), key=lambda item: -item[1])
    largest = max((share for _, share in parts), default=0) or 1
    block, half = ("█", "▌") if supports_unicode(sys.stdout) else ("#", "")
    rows: list[list[TableCell]] = []
    for name, share in parts:
        if share <= 0:
            continue
        width = share / largest * BAR_WIDTH
        bar = block * int(width) + (half if width - int(width) >= 0.5 else "")
        percent = format_share(share / max(1, memory.expected))
        rows.append([name, format_bytes(share), percent, (bar or half or block, "good")])
    return TableBlock([f"memory of {phase}", "expected", "share", ""], rows, right=(1, 2))


def _fit_table(comparison: TechniqueComparison) -> Iterator[Block]:
    """Yield a table that shows on which GPU classes each technique fits, and whether here."""
    gpu_classes = [str(size) for size in comparison.hardware.gpu_classes()]
    rows: list[list[TableCell]] = []
    unknown = []
    for row in comparison.rows:
        estimate = comparison.estimate(row)
        if estimate is None:
            unknown.append(TextLine(f"{row.name}: {row.problem}", "dim"))
            continue
        peak, fits = compute_peak(estimate), comparison.fits(row)
        cells: list[TableCell] = [
            _name_cell(row),
            f"{format_gib(peak.low)} to {format_gib(peak.high)}",
        ]
        for column in (*gpu_classes, THIS_MACHINE):
            fit = fits.get(column)
            cells.append((fit, FIT_STYLES[fit]) if fit else "")
        rows.append(cells)
    if rows:
        headers = ["fits on", "peak GiB", *(f"{name} GB" for name in gpu_classes), THIS_MACHINE]
        yield TableBlock(headers, rows, right=(1,))
    yield from unknown


def _cost_table(comparison: TechniqueComparison) -> Iterator[Block]:
    """Yield a table with the time and cost on the cheapest GPU and on this machine."""
    rows: list[list[TableCell]] = []
    for row in comparison.rows:
        times, costs = comparison.times(row), comparison.costs(row)
        gpu = comparison.cheapest(row)
        if gpu is not None:
            fits = check_fit(compute_peak(row.estimates["cuda"]), gpu.usable) == "yes"
            name = gpu.name if fits else f"{gpu.name}, if it fits"
            rows.append(
                [
                    _name_cell(row),
                    name,
                    format_duration_range(*times[gpu.name]),
                    format_cost_range(costs[gpu.name]),
                ]
            )
        elif row.estimates:
            rows.append([_name_cell(row), "does not fit on any listed GPU", "", ""])
        if THIS_MACHINE in times:
            rows.append(
                [
                    "" if gpu else _name_cell(row),
                    THIS_MACHINE,
                    format_duration_range(*times[THIS_MACHINE]),
                    "",
                ]
            )
    if rows:
        yield TableBlock(["training only", "cheapest GPU", "time", "cost"], rows)


def _run_time_table(comparison: TechniqueComparison) -> Iterator[Block]:
    """Yield a table with the time of the whole run and of its parts on this machine."""
    parts = comparison.run_time()
    if len(parts) < 2:
        return
    low, high = map(sum, zip(*parts.values(), strict=True))
    rows: list[list[TableCell]] = [
        [part, format_duration_range(*seconds)] for part, seconds in parts.items()
    ]
    rows.append([("total", "strong"), (format_duration_range(low, high), "strong")])
    yield TextLine()
    yield TableBlock(["whole run", f"time on {THIS_MACHINE}"], rows)


def _savings_table(comparison: TechniqueComparison) -> Iterator[Block]:
    found = comparison.find_savings()
    if not found:
        return
    limit, estimate = comparison.limit(), comparison.estimate(comparison.chosen)
    too_large = limit is not None and estimate is not None and compute_peak(estimate).high > limit
    rows: list[list[TableCell]] = [_saving_cells(comparison, saving) for saving in found]
    yield TextLine()
    title = f"to make it fit on {THIS_MACHINE}" if too_large else "to save memory"
    yield TableBlock([title, "saves", "then fits on", "disadvantage"], rows, right=(1,))


def _saving_cells(comparison: TechniqueComparison, saving: Saving) -> list[TableCell]:
    changes = "\n".join(saving.changes)
    return [
        changes,
        format_bytes(saving.saves),
        _place_cell(comparison, saving),
        "\n".join(saving.costs),
    ]


def _place_cell(comparison: TechniqueComparison, saving: Saving) -> TableCell:
    """Return the device that the run fits on after a change."""
    if saving.enough:
        return THIS_MACHINE, "good"
    if comparison.target_type != "cuda":
        return "still does not fit", "warning"
    size = comparison.smallest_class_for(saving.peak)
    return f"{size} GB" if size else "no listed GPU"


def list_notes(comparison: TechniqueComparison) -> list[str]:
    """Return notes about the assumptions and sources of the estimates."""
    found = []
    estimate = comparison.estimate(comparison.chosen)
    if estimate is not None:
        found += list(estimate.notes)
    here = comparison.this_device
    memory = (
        f"{format_bytes(here.memory)} available" if here.memory is not None else "memory unknown"
    )
    memory += " for each process" if comparison.processes > 1 else ""
    cores = f", {format_count(here.cores, 'core')}" if here.cores else ""
    found.append(f"{THIS_MACHINE}: {one_line(here.name)}{cores}, {memory}")
    found += _calibration_notes(comparison, estimate)
    busy = measure_load(here)
    if busy >= NOTABLE_LOAD and comparison.run_time():
        found.append(
            f"other programs use the processor of {THIS_MACHINE}, so the whole run takes up to "
            f"{busy:.1f} times as long as on an idle machine"
        )
    untraced = [
        row.name
        for row in comparison.rows
        if row.estimates.get(comparison.target_type)
        and row.estimates[comparison.target_type].method == "analytic"
    ]
    if untraced and len(untraced) < len([row for row in comparison.rows if row.estimates]):
        found.append(f"analytic estimate only, not traced: {', '.join(untraced)}")
    first, last = comparison.hardware.price_dates()
    table = ", ".join(comparison.hardware.files) or "the packaged table"
    found.append(
        'times and costs in the table "training only" are for one GPU at typical throughput; '
        f"hourly prices are from {first} to {last} ({table})"
    )
    return found


def _calibration_notes(comparison: TechniqueComparison, estimate: Estimate | None) -> Iterator[str]:
    """Yield a note for each correction that earlier runs on this device made to the estimates."""
    if estimate is None:
        return
    name = comparison.chosen.name
    raw = comparison.chosen.estimates[comparison.this_device.type]
    correction = comparison.calibration.correction(raw, name)
    if correction is not None:
        yield (
            f"memory on {THIS_MACHINE} is corrected using "
            f"{format_count(correction.runs, 'earlier run')}, whose measured peak was "
            f"{correction.ratio:.2f} times the estimate"
        )
    throughput = comparison.calibration.throughput(name, raw)
    if throughput is not None:
        low, high = (format_rate(end / 1e9) for end in throughput)
        yield f"time on {THIS_MACHINE} is estimated from earlier runs: {low} to {high} GFLOP/s"


def _name_cell(row: TechniqueRow) -> TableCell:
    return (f"{row.name} *", "strong") if row.chosen else row.name


def format_gib(number: int) -> str:
    """Format a number of bytes in GiB, without the unit."""
    amount = number / (1 << 30)
    return f"{amount:.2f}" if amount < 1 else f"{amount:.1f}"


def format_cost_range(cost: Range) -> str:
    """Format a range of costs in US dollars: ``$0.52 to $1.10``."""
    low, high = (_format_dollars(amount) for amount in cost)
    return low if low == high else f"{low} to {high}"


def _format_dollars(amount: float) -> str:
    if amount < 0.01:
        return "under $0.01"
    return f"${amount:,.2f}" if amount < 10 else f"${amount:,.0f}"


# --------------------------------------------------------------------------- JSON


def to_json(comparison: TechniqueComparison) -> dict[str, Any]:
    """Return the comparison as JSON with the schema ``tunesmith.plan/1``.

    Sizes are in bytes, times in seconds, costs in US dollars.
    """
    known = {row.name: row for row in comparison.rows if comparison.estimate(row) is not None}
    estimates = {name: comparison.estimate(row) for name, row in known.items()}
    found = {name: estimate for name, estimate in estimates.items() if estimate is not None}
    here = {name: comparison.estimate_on_this_machine(row) for name, row in known.items()}
    return {
        "schema": SCHEMA,
        "model": comparison.plan.found_model.description,
        "technique": comparison.chosen.name,
        "device": comparison.target_type,
        "processes": comparison.processes,
        "memory": {name: _phases_json(estimate) for name, estimate in found.items()},
        "peak": {name: _peak_json(estimate) for name, estimate in found.items()},
        "work": {name: _work_json(estimate) for name, estimate in found.items()},
        "fits": {name: comparison.fits(row) for name, row in known.items()},
        "time": {name: _ranges_json(comparison.times(row)) for name, row in known.items()},
        "run_time": _ranges_json(comparison.run_time()),
        "cost": {name: _ranges_json(comparison.costs(row)) for name, row in known.items()},
        "memory_savings": [_saving_json(saving) for saving in comparison.find_savings()],
        "this_machine": {
            "device": comparison.this_device.type,
            "name": comparison.this_device.name,
            "available": comparison.this_device.memory,
            "memory": {name: _phases_json(e) for name, e in here.items() if e is not None},
        },
        "unknown": {row.name: row.problem for row in comparison.rows if row.problem},
        "notes": list_notes(comparison),
        "gpus": [_gpu_json(comparison, gpu.name) for gpu in comparison.hardware.gpus],
        "calibration": {"runs": len(comparison.calibration.runs)},
        "plan": comparison.plan.to_json(),
    }


def _phases_json(estimate: Estimate) -> dict[str, Any]:
    return {
        phase: {**asdict(memory), "components": dict(memory.components)}
        for phase, memory in estimate.memory.items()
    }


def _peak_json(estimate: Estimate) -> dict[str, Any]:
    peak = compute_peak(estimate)
    components = estimate.memory[peak.phase].components
    largest = max(components, key=lambda name: components[name], default="")
    return {**peak.to_json(), "phase": peak.phase, "component": largest}


def _work_json(estimate: Estimate) -> dict[str, Any]:
    names = ("method", "flops", "steps", "tokens", "longest_row", "micro_batch_tokens")
    record = {**asdict(estimate)}
    return {**{name: record[name] for name in names}, "notes": list(estimate.notes)}


def _ranges_json(ranges: dict[str, Range]) -> dict[str, dict[str, float]]:
    return {name: {"low": low, "high": high} for name, (low, high) in ranges.items()}


def _saving_json(saving: Saving) -> dict[str, Any]:
    return {
        "changes": list(saving.changes),
        "costs": list(saving.costs),
        "saves": saving.saves,
        **saving.peak.to_json(),
        "enough": saving.enough,
    }


def _gpu_json(comparison: TechniqueComparison, name: str) -> dict[str, Any]:
    gpu = next(gpu for gpu in comparison.hardware.gpus if gpu.name == name)
    return {
        "name": gpu.name,
        "gigabytes": gpu.gigabytes,
        "usable": gpu.usable,
        "source": gpu.source,
        "date": gpu.date,
        "prices": [asdict(price) for price in gpu.prices],
    }
