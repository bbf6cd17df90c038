"""The numbers as a page."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.benchmarks.peers import PEERS
from tests.benchmarks.training import CASES, GPU_CASES, loss_distance, summary

NAMES = {
    "tunesmith": "tunesmith",
    "trl": "TRL, defaults",
    "trl-best": "TRL, best: bfd packing, no checkpointing",
    "trl-cached": "TRL, reference computed once before training",
    "trl-fast": "TRL, best: fastest format, no checkpointing, nothing computed twice",
}


def page(found: dict[str, Any], raw: str) -> str:
    """Markdown; ``raw`` is the name of the file with the numbers."""
    parts = [HEAD.format(raw=raw), _machine(found["machine"])]
    tables = found.get("training", {})
    parts += [_training(tables[name]) for name in (*CASES, *GPU_CASES) if name in tables]
    for name, part in (
        ("generation", _generation),
        ("utilisation", _utilisation),
        ("imports", _imports),
        ("peers", _peers),
    ):
        if found.get(name):
            parts.append(part(found[name]))
    return "\n\n".join(parts) + "\n"


HEAD = """# Benchmarks

Written by `make bench`; the raw numbers are in `{raw}`. Everybody gets the same rows in the same
order: log-normal lengths (median 180 tokens, 24 to 512), 35 % of the tokens trained. All run in
turn, each training in a process of its own; given are medians, and in brackets the lowest and the
highest. The first step of a training is not counted. "Times" is tunesmith's speed over the other's,
taken round by round; "memory" is tunesmith's peak over the other's, imported libraries included.
Each table says when it was taken."""


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"* {machine['cpu']}, {machine['cores']} cores, {', '.join(machine['flags'])}",
        *([f"* {machine['gpu']}"] if machine.get("gpu") else []),
        f"* {machine['date']}, load before and after: {machine['load']}, {machine['load_after']}",
        f"* Python {machine['python']}, {versions}",
    ]
    if rates := machine.get("matrix_rate"):
        text = ", ".join(
            f"{name} {rate['best']:.0f} at best, {rate['usual']:.0f} usually"
            for name, rate in rates.items()
        )
        lines.append(f"* matrix products, 1e9 operations per second: {text}")
    if "bfloat16" not in machine.get("matrix_rate", {"bfloat16": 0}):
        lines.append(
            "* this processor has no bfloat16 arithmetic, so everybody computes in float32; TRL's "
            "own default, bf16, would be emulated"
        )
    if machine.get("quick"):
        lines.append("* a quick run: fewer steps and rounds, so the numbers are rough")
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _training(result: dict[str, Any]) -> str:
    title = f"## {result['title']}"
    if "error" in result:
        return f"{title}\n\nNot measured: {result['error']}"
    rows = [
        [
            NAMES[line["who"]],
            f"{line['speed']:.0f} ({line['low']:.0f} to {line['high']:.0f})",
            f"{line['cpu_speed']:.0f}",
            f"{line['times']:.2f}",
            f"{line['peak_mb']:.0f}",
            f"{line['memory']:.2f}",
        ]
        for line in summary(result)
    ]
    head = ["", "tokens/s", "tokens per CPU second", "times", "peak MB", "memory"]
    often = f"Rounds: {result['rounds']}, of {result['steps']} steps each{_when(result)}."
    return f"{title}\n\n{_table(head, rows)}\n\n{often} {_agreement(result)}"


def _when(found: dict[str, Any]) -> str:
    """When a table was taken, and how busy the machine was just before."""
    return f", on {found['date']} after a load of {found['load'][0]}" if "date" in found else ""


def _agreement(result: dict[str, Any]) -> str:
    """What shows that everybody learned the same."""
    runs = result["runs"]
    ours, theirs = runs["tunesmith"][0], runs["trl"][0]
    match result.get("compared", "losses"):
        case "rewards":
            earned = " and ".join(
                f"{median(r for run in runs[who] for r in run['rewards']):.3f}"
                for who in ("tunesmith", "trl")
            )
            return f"Tokens are those of answers. Median rewards, ours and theirs: {earned}."
        case "first":
            return (
                "Heads begin with random weights, so losses are alike and not equal: "
                f"{ours['losses'][0]:.3f} and {theirs['losses'][0]:.3f} at the first step, "
                f"{ours['losses'][-1]:.3f} and {theirs['losses'][-1]:.3f} at the last."
            )
        case _:
            return (
                f"Losses of tunesmith and of TRL's defaults, {result['steps']} steps: "
                f"at most {loss_distance(result):.1e} of the loss apart."
            )


def _generation(found: dict[str, Any]) -> str:
    rows = []
    for key, name in (("apart", "nothing shared"), ("shared", "256 tokens shared")):
        ours, theirs = found[key]["tunesmith"], found[key]["transformers"]
        kinds = ("tokens_per_second", "tokens_per_cpu_second")
        speeds = [f"{median(run[k] for run in runs):.0f}" for k in kinds for runs in (ours, theirs)]
        ratios = [a[k] / b[k] for k in kinds for a, b in zip(ours, theirs, strict=True)]
        half = len(ratios) // 2
        times = [f"{median(ratios[:half]):.2f}", f"{median(ratios[half:]):.2f}"]
        rows.append([name, *speeds[:2], times[0], *speeds[2:], times[1]])
    head = ["32 prompts", "tunesmith, tokens/s", "`generate`", "times"]
    head += ["tunesmith, per CPU second", "`generate`", "times"]
    return (
        f"## Generation, 40M Llama, {found['precision']}\n\n"
        f"Sampled answers of at most {found['limit']} tokens that end where they end; against "
        f"transformers' own `model.generate` on the whole batch{_when(found)}.\n\n"
        f"{_table(head, rows)}"
    )


def _utilisation(found: dict[str, Any]) -> str:
    return (
        "## How near to the arithmetic limit\n\n"
        f"Full fine-tuning of the 40M Llama does {found['gflops']:.0f}e9 useful operations per "
        f"second, measured before and after: {found['share']:.2f} of the best rate of plain "
        f"{found['format']} matrix products, {found['share_of_usual']:.2f} of the usual one."
    )


def _imports(found: dict[str, dict[str, float]]) -> str:
    rows = [[name, f"{one['seconds']:.2f}", f"{one['peak_mb']:.0f}"] for name, one in found.items()]
    return (
        "## Start-up\n\nWhat the libraries take before there is a model; it is part of every peak "
        f"above.\n\n{_table(['imports', 'seconds', 'MB'], rows)}"
    )


def _peers(found: dict[str, Any]) -> str:
    ours = found["runs"]["tunesmith"]
    rows = []
    for name, run in found["runs"].items():
        label = PEERS[name].name if name in PEERS else name
        about = "; ".join(run[key] for key in ("versions", "settings") if key in run)
        fixes = run.get("fixes", "")
        if "error" in run:
            why = run["error"].replace("\n", " ").replace("|", "/")
            rows.append([label, "not measured", "", "", "", why, fixes])
            continue
        speed = run["tokens_per_second"]
        cells = [f"{speed:.0f}", f"{ours['tokens_per_second'] / speed:.2f}"]
        cells += [f"{run['peak_mb']:.0f}", f"{ours['peak_mb'] / run['peak_mb']:.2f}"]
        rows.append([label, *cells, about, fixes])
    head = ["", "tokens/s", "times", "peak MB", "memory", "versions and settings", "fixed here"]
    few, many = found["rows"]
    return (
        "## Other tools, LoRA, 40M Llama\n\n"
        "Each through its own command line, in an environment of its own, on the same weights and "
        f"rows. Speed is the difference between runs of {many} and of {few} rows, so start-up does "
        f"not count.\n\n{_table(head, rows)}"
    )
