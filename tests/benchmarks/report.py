"""Write the measured numbers as a page."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.benchmarks.peers import PEERS
from tests.benchmarks.training import ALL_CASES, arithmetic_limit, loss_distance, summarize

NAMES = {
    "tunesmith": "tunesmith",
    "trl": "TRL, defaults",
    "trl-best": "TRL, best: bfd packing, no checkpointing",
    "trl-cached": "TRL, reference computed once before training",
    "trl-fast": "TRL, best: fastest format, no checkpointing, nothing computed twice",
}


def render_page(results: dict[str, Any], raw: str) -> str:
    """Return the page as Markdown; ``raw`` is the name of the file with the numbers."""
    machine = results["machine"]
    parts = [HEAD.format(raw=raw, on=_name_arithmetic(machine)), _machine(machine)]
    tables = results.get("training", {})
    parts += [_training(tables[name]) for name in ALL_CASES if name in tables]
    if limits := _limits(tables, machine):
        parts.append(limits)
    for name, part in (
        ("generation", _generation),
        ("overhead", _overhead),
        ("imports", _imports),
        ("first-step", _first_step),
        ("preparation", _preparation),
        ("large-data", _large_data),
        ("peers", _peers),
    ):
        if results.get(name):
            parts.append(part(results[name]))
    return "\n\n".join(parts) + "\n"


HEAD = """# Benchmarks{on}

Written by `make bench`; the raw numbers are in `{raw}`. All programs train on the same rows in the
same order. Row lengths are log-normal (24 to 512 tokens, median 180), and 35 % of the tokens count
in the loss. The programs take turns, each training in a separate process. Numbers are medians, with
the lowest and highest value in brackets; the first step is not counted.

- *times*: tunesmith's speed divided by that of the other program, per round
- *memory*: tunesmith's peak memory divided by that of the other program, both including imported
  libraries"""


def _name_arithmetic(machine: dict[str, Any]) -> str:
    """Return " on a CPU with AMX" or the like, because speeds depend on it most."""
    if machine.get("gpu"):
        return f" on one {machine['gpu']}"
    known = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512", "avx2": "AVX2"}
    found = next((known[flag] for flag in known if flag in machine["flags"]), None)
    return f" on a CPU with {found}" if found else ""


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"* {machine['cpu']}, {machine['cores']} cores, {', '.join(machine['flags'])}",
        *([f"* {machine['gpu']}"] if machine.get("gpu") else []),
        f"* {machine['date']}, load average before and after: {machine['load']}, "
        f"{machine['load_after']}",
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
            "* this processor has no bfloat16 arithmetic, so all programs compute in float32 "
            "(bf16, TRL's default, would be emulated)"
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
            NAMES[line["trainer"]],
            f"{line['speed']:.0f} ({line['low']:.0f} to {line['high']:.0f})",
            f"{line['cpu_speed']:.0f}",
            f"{line['times']:.2f}",
            f"{line['peak_mb']:.0f}",
            f"{line['memory']:.2f}",
        ]
        for line in summarize(result)
    ]
    head = ["", "tokens/s", "tokens per CPU second", "times", "peak MB", "memory"]
    often = f"Rounds: {result['rounds']}, of {result['steps']} steps each{_date_and_load(result)}."
    return f"{title}\n\n{_table(head, rows)}\n\n{often} {_comparison(result)}"


def _date_and_load(results: dict[str, Any]) -> str:
    """Return the date of a table, and the machine's load just before."""
    return f", on {results['date']}, load average {results['load'][0]}" if "date" in results else ""


def _comparison(result: dict[str, Any]) -> str:
    """Return the comparison that shows that both programs trained the same model."""
    runs = result["runs"]
    tunesmith, trl = runs["tunesmith"][0], runs["trl"][0]
    match result.get("compared", "losses"):
        case "rewards":
            rewards = " and ".join(
                f"{median(r for run in runs[trainer] for r in run['rewards']):.3f}"
                for trainer in ("tunesmith", "trl")
            )
            return (
                "Speed only counts tokens of completions. Median rewards of tunesmith and TRL: "
                f"{rewards}."
            )
        case "first":
            return (
                "Reward heads are initialized randomly, so losses are similar but not equal: "
                f"{tunesmith['losses'][0]:.3f} and {trl['losses'][0]:.3f} at the first step, "
                f"{tunesmith['losses'][-1]:.3f} and {trl['losses'][-1]:.3f} at the last."
            )
        case _:
            return (
                f"Over {result['steps']} steps, the largest relative difference between the losses "
                f"of tunesmith and of TRL's defaults is {loss_distance(result):.1e}."
            )


def _generation(tables: list[dict[str, Any]]) -> str:
    return "\n\n".join(map(_generation_of_model, tables))


def _generation_of_model(results: dict[str, Any]) -> str:
    rows = []
    for key, name in (("apart", "nothing shared"), ("shared", "256 tokens shared")):
        tunesmith_runs = results[key]["tunesmith"]
        transformers_runs = results[key]["transformers"]
        kinds = ("tokens_per_second", "tokens_per_cpu_second")
        speeds = [
            f"{median(run[k] for run in runs):.0f}"
            for k in kinds
            for runs in (tunesmith_runs, transformers_runs)
        ]
        ratios = [
            a[k] / b[k]
            for k in kinds
            for a, b in zip(tunesmith_runs, transformers_runs, strict=True)
        ]
        half = len(ratios) // 2
        times = [f"{median(ratios[:half]):.2f}", f"{median(ratios[half:]):.2f}"]
        rows.append([name, *speeds[:2], times[0], *speeds[2:], times[1]])
    head = ["32 prompts", "tunesmith, tokens/s", "`generate`", "times"]
    head += ["tunesmith, per CPU second", "`generate`", "times"]
    return (
        f"## Generation, {results['model']}, {results['precision']}\n\n"
        f"Sampled answers of at most {results['limit']} tokens with different lengths, "
        "compared with transformers' `model.generate` on the full batch"
        f"{_date_and_load(results)}.\n\n{_table(head, rows)}"
    )


def _limits(tables: dict[str, Any], machine: dict[str, Any]) -> str:
    rows = []
    for name in (name for name in ALL_CASES if name in tables):
        case = ALL_CASES[name]
        # Pages that were written before the rate was measured beside each case have one for all.
        rates = tables[name].get("matrix_rate", machine.get("matrix_rate", {}))
        if limit := arithmetic_limit(case, tables[name], rates):
            numbers = f"{limit.share:.2f}", f"{limit.speed:.0f}", f"{limit.times:.2f}"
            rows.append([case.title, *numbers])
    if not rows:
        return ""
    head = ["", "share of the best rate", "tokens/s at that rate", "times TRL, best"]
    return (
        "## Distance from the arithmetic limit\n\n"
        "*Share*: the operations that training needs at least, per second, divided by the best "
        "rate of plain matrix products, which varies by a few percent. The other columns give "
        f"tunesmith's speed if everything ran at that rate.\n\n{_table(head, rows)}"
    )


def _overhead(results: dict[str, Any]) -> str:
    rows = []
    for name, runs in results["cases"].items():
        milliseconds = {loop: [cpu for cpu, _ in measured] for loop, measured in runs.items()}
        pairs = zip(milliseconds["toolkit"], milliseconds["plain"], strict=True)
        extra = [toolkit - plain for toolkit, plain in pairs]
        rows.append(
            [
                name,
                f"{median(milliseconds['toolkit']):.2f}",
                f"{median(milliseconds['plain']):.2f}",
                _with_range(extra),
            ]
        )
    head = ["toy Llama", "tunesmith's loop, ms", "plain loop, ms", "difference, ms"]
    return (
        "## Overhead of the training loop\n\n"
        "CPU time of one step on one thread, compared with a plain PyTorch loop over the same "
        "prepared batches. The plain loop runs forward, backward, clipping and AdamW, and reads "
        "loss and norm. With fused kernels it calls the toolkit's loss, otherwise the model's "
        f"forward pass. The loops alternate in one process, {results['steps']} steps at a time"
        f"{_date_and_load(results)}.\n\n{_table(head, rows)}"
    )


def _with_range(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _first_step(results: dict[str, Any]) -> str:
    rows = [
        [name, _with_range([cpu for cpu, _ in runs]), _with_range([wall for _, wall in runs])]
        for name, runs in results["runs"].items()
    ]
    return (
        "## First step\n\n"
        "From the command to the end of the first LoRA step on a toy Llama, without baselines and "
        "side effects, compared with a program that only imports the libraries. Each run is a new "
        "process, and "
        "the two programs take turns"
        f"{_date_and_load(results)}.\n\n{_table(['', 'CPU seconds', 'seconds'], rows)}"
    )


def _preparation(results: dict[str, Any]) -> str:
    runs = results["runs"]
    rows = []
    for name in ("tunesmith", "trl"):
        pairs = list(zip(runs["tunesmith"], runs[name], strict=True))
        cells = [NAMES[name]]
        for key in ("seconds", "cpu_seconds"):
            cells.append(_with_range([results["megabytes"] / run[key] for run in runs[name]]))
            cells.append(_with_range([run[key] / own[key] for own, run in pairs]))
        rows.append(cells)
    head = ["", "MB/s", "times", "MB per CPU second", "times"]
    return (
        "## Preparation of rows\n\n"
        f"{results['rows']:,} prompts and completions in English are rendered with the chat "
        "template of SmolLM2, tokenized, and packed into rows of 2048 tokens. Both programs take "
        f"turns in one process{_date_and_load(results)}.\n\n{_table(head, rows)}"
    )


def _large_data(results: dict[str, Any]) -> str:
    rows = []
    for case in results["cases"]:
        small, large = case["small"], case["large"]
        cells = [f"{case['model']}, {case['technique']}"]
        cells += [f"{run['peak_mb']:.0f}" for run in (small, large)]
        cells.append(f"{large['peak_mb'] - small['peak_mb']:.0f}")
        cells += [f"{large[key]:.0f}" for key in ("first_step_seconds", "first_step_cpu_seconds")]
        rows.append(cells)
    head = ["model, technique", "peak MB of 100 rows", "peak MB", "difference"]
    head += ["seconds to the first step", "CPU seconds"]
    return (
        "## Large data\n\n"
        f"A complete run with a file of {results['bytes'] / 1e9:g} GB ({results['rows']:,} prompts "
        "and completions of English words), compared with a run on 100 of these rows"
        f"{_date_and_load(results)}.\n\n{_table(head, rows)}"
    )


def _imports(results: dict[str, dict[str, float]]) -> str:
    rows = [
        [name, f"{one['seconds']:.2f}", f"{one['peak_mb']:.0f}"] for name, one in results.items()
    ]
    return (
        "## Start-up\n\nTime and memory of importing the libraries, without a model. "
        f"Every peak above includes this memory.\n\n{_table(['imports', 'seconds', 'MB'], rows)}"
    )


def _peers(results: dict[str, Any]) -> str:
    tunesmith = results["runs"]["tunesmith"]
    rows = []
    for name, run in results["runs"].items():
        label = PEERS[name].name if name in PEERS else name
        about = "; ".join(run[key] for key in ("versions", "settings") if key in run)
        fixes = run.get("fixes", "")
        if "error" in run:
            why = run["error"].replace("\n", " ").replace("|", "/")
            rows.append([label, "not measured", "", "", "", why, fixes])
            continue
        speed = run["tokens_per_second"]
        cells = [f"{speed:.0f}", f"{tunesmith['tokens_per_second'] / speed:.2f}"]
        cells += [f"{run['peak_mb']:.0f}", f"{tunesmith['peak_mb'] / run['peak_mb']:.2f}"]
        rows.append([label, *cells, about, fixes])
    head = ["", "tokens/s", "times", "peak MB", "memory", "versions and settings", "fixed here"]
    few, many = results["rows"]
    return (
        "## Other tools, LoRA, 40M Llama\n\n"
        "Each tool runs through its command line, in a separate environment, on the same weights "
        f"and rows. Speed is the difference between runs of {many} and {few} rows, so start-up "
        f"does not count.\n\n{_table(head, rows)}"
    )
