"""``tunesmith data annotate``: sample pairs of answers, ask which is better, export the choices."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_cli.common import trust_option
from tunesmith_plugins.commands.annotate.pairs import (
    ChoiceCounts,
    preference_lines,
    read_pairs,
    write_pairs,
)

if TYPE_CHECKING:
    from tunesmith_plugins.commands.annotate.sample_pairs import SamplingSettings

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("annotate")
@click.option(
    "--run", type=click.Path(path_type=Path), help="Sample answers from the model of this run."
)
@click.option("--model", help="Sample answers from this model: a folder, a GGUF file or a Hub id.")
@click.option(
    "--ask", type=FILE, metavar="PAIRS", help="Ask about the undecided pairs in this file."
)
@click.option(
    "--read",
    "annotated",
    type=FILE,
    metavar="PAIRS",
    help="Write the choices in this file as preferences to --out.",
)
@click.option(
    "--prompts", type=FILE, help="JSON Lines file with `prompt`. Default: the run's data."
)
@click.option(
    "--out", type=FILE, help="File to write: pairs of answers or, with --read, preferences."
)
@click.option("--count", type=click.IntRange(1), help="Use only the first COUNT prompts.")
@click.option(
    "--num-samples",
    type=click.IntRange(2, 8),
    default=2,
    show_default=True,
    help="Number of answers to sample per prompt; any two of them become a pair.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 32768),
    default=128,
    show_default=True,
    help="Maximum tokens per answer.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 10, min_open=True),
    default=1.0,
    show_default=True,
    help="Sampling temperature.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed for sampling and for shuffling the two sides.",
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    run: Path | None,
    model: str | None,
    ask: Path | None,
    annotated: Path | None,
    prompts: Path | None,
    out: Path | None,
    count: int | None,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """Choose the better of two answers to create preference data.

    \b
    1. tunesmith data annotate --run runs/sft --out pairs.jsonl
       samples answers and writes each pair as a line with an empty "choice".
    2. tunesmith data annotate --ask pairs.jsonl
       asks in the terminal and saves after every key. Or edit the file: set
       "choice" to left, right, tie or skip.
    3. tunesmith data annotate --read pairs.jsonl --out preferences.jsonl
       writes the preferences as rows for [data] use = "jsonl".
    """
    modes = {"--run": run, "--model": model, "--ask": ask, "--read": annotated}
    given = [name for name, value in modes.items() if value is not None]
    if len(given) != 1:
        raise UsageError(
            f"data annotate: exactly one of {', '.join(modes)} is needed, got {len(given)}"
        )
    if ask is not None:
        _run_session(ask)
        _print_counts(ChoiceCounts.of(read_pairs(ask)), as_json)
        return
    if out is None:
        raise UsageError(f"data annotate: {given[0]} needs --out FILE")
    if out.exists():
        raise UsageError(
            f"{out}: already exists", hint="the file may contain choices: use another file name"
        )
    if annotated is not None:
        pairs = read_pairs(annotated)
        write_atomic(out, "".join(preference_lines(pairs)))
        _print_counts(ChoiceCounts.of(pairs), as_json)
        return
    from tunesmith_plugins.commands.annotate.sample_pairs import SamplingSettings

    settings = SamplingSettings(num_samples, max_new_tokens, temperature, seed)
    _sample(run, model, prompts, count, settings, out)


def _sample(
    run: Path | None,
    model: str | None,
    prompts: Path | None,
    count: int | None,
    settings: SamplingSettings,
    out: Path,
) -> None:
    from tunesmith_plugins.commands.annotate import sample_pairs
    from tunesmith_torch.compare.open_by_name import open_by_name

    if prompts is None and run is None:
        raise UsageError(
            "data annotate: --model needs a file with prompts", hint="add --prompts FILE"
        )
    source = str(run or model)
    conversations = (
        sample_pairs.read_prompt_file(prompts)
        if prompts is not None
        else sample_pairs.read_run_prompts(Path(source))
    )
    opened = open_by_name(source, option="--run" if run is not None else "--model")
    pairs, skipped = sample_pairs.sample_pairs(opened, conversations[:count], settings)
    if not pairs:
        raise UsageError(
            f"{source}: no prompt received two different, non-empty answers",
            hint="raise --temperature, --num-samples or --max-new-tokens",
        )
    write_pairs(out, pairs)
    message = f"wrote {format_count(len(pairs), 'pair')} to annotate to {out}"
    if skipped:
        message += (
            f"; skipped {format_count(skipped, 'pair')} with equal, empty or unprintable answers"
        )
    click.echo(message)
    click.echo(f"next: tunesmith data annotate --ask {out}", err=True)


def _run_session(path: Path) -> None:
    """Ask the user on the terminal about the undecided pairs in a file.

    Raises:
        UsageError: stdin or stdout is not a terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "data annotate --ask: needs a terminal",
            hint="run the command in a terminal, or set `choice` in the file with a text editor",
        )
    from tunesmith_plugins.commands.annotate.keyboard import Keyboard
    from tunesmith_plugins.commands.annotate.session import Session

    with Keyboard(sys.stdin.fileno()) as keyboard:
        Session(path, keyboard).run()


def _print_counts(counts: ChoiceCounts, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": "tunesmith.annotate/1", **asdict(counts)}))
    else:
        click.echo(counts.to_text())
