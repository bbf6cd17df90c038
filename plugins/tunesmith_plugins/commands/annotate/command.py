"""``tunesmith data annotate``: draw pairs of answers, ask about them, read the choices back."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import count_text
from tunesmith_plugins.commands.annotate.pairs import Tally, preferences, read, write

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("data", invoke_without_command=True)
@click.pass_context
def group(context: click.Context) -> None:
    """Make training data."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@group.command("annotate")
@click.option("--run", type=click.Path(path_type=Path), help="Draw answers from this run's model.")
@click.option("--model", help="Draw answers from this model: a folder, a GGUF file, a hub id ...")
@click.option("--ask", type=FILE, metavar="PAIRS", help="Ask about the open pairs of this file.")
@click.option("--read", "reading", type=FILE, metavar="PAIRS", help="Read the choices of a file.")
@click.option("--prompts", type=FILE, help="JSON Lines with `prompt`. Default: the run's own.")
@click.option("--out", type=FILE, help="File to write: pairs, with --read preferences.")
@click.option("--count", type=click.IntRange(1), help="Prompts to take, from the first on.")
@click.option(
    "--samples",
    type=click.IntRange(2, 8),
    default=2,
    show_default=True,
    help="Answers to each prompt; every two of them become a pair.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 32768),
    default=128,
    show_default=True,
    help="Most tokens of an answer.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 10, min_open=True),
    default=1.0,
    show_default=True,
    help="Of the draws.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of answers and sides."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def annotate(  # noqa: PLR0913 - one parameter for each option of the command line
    run: Path | None,
    model: str | None,
    ask: Path | None,
    reading: Path | None,
    prompts: Path | None,
    out: Path | None,
    count: int | None,
    samples: int,
    tokens: int,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """Let people say which of two answers is better.

    \b
    1. tunesmith data annotate --run runs/sft --out pairs.jsonl
       draws answers; every pair of them is a line with an empty "choice".
    2. tunesmith data annotate --ask pairs.jsonl
       asks in the terminal and saves after every key; or fill in "choice" by
       hand: left, right, tie or skip.
    3. tunesmith data annotate --read pairs.jsonl --out preferences.jsonl
       writes the preferences as rows that [data] use = "jsonl" reads.
    """
    modes = {"--run": run, "--model": model, "--ask": ask, "--read": reading}
    given = [name for name, value in modes.items() if value is not None]
    if len(given) != 1:
        raise UsageError(f"data annotate: needs one of {', '.join(modes)}, got {len(given)}")
    if ask is not None:
        _ask(ask)
        _tell(Tally.of(read(ask)), as_json)
        return
    if out is None:
        raise UsageError(f"data annotate: {given[0]} needs a file to write, --out")
    if out.exists():
        raise UsageError(f"{out}: exists already", hint="choices may be in it: name another file")
    if reading is not None:
        pairs = read(reading)
        write_atomic(out, "".join(preferences(pairs)))
        _tell(Tally.of(pairs), as_json)
        return
    from tunesmith_plugins.commands.annotate import draw

    how = draw.Drawing(samples, tokens, temperature, seed)
    _draw(str(run or model), run, prompts, count, how, out)


def _draw(
    where: str, run: Path | None, prompts: Path | None, count: int | None, how: object, out: Path
) -> None:
    from tunesmith_plugins.commands.annotate import draw
    from tunesmith_torch.compare.open_by_name import open_by_name

    assert isinstance(how, draw.Drawing)
    if prompts is None and run is None:
        raise UsageError("data annotate: --model needs prompts", hint="name a file with --prompts")
    asked = draw.of_file(prompts) if prompts is not None else draw.of_run(Path(where))
    opened = open_by_name(where, option="--run" if run is not None else "--model")
    pairs, left_out = draw.from_model(opened, asked[:count], how)
    if not pairs:
        raise UsageError(
            f"{where}: no two answers to a prompt were different and not empty",
            hint="raise --temperature, --samples or --tokens",
        )
    write(out, pairs)
    said = f"{out}: {count_text(len(pairs), 'pair')} to annotate"
    if left_out:
        said += f"; {left_out} left out: their answers are equal, empty or no text"
    click.echo(said)
    click.echo(f"next: tunesmith data annotate --ask {out}", err=True)


def _ask(path: Path) -> None:
    """Hold a session.

    Raises:
        UsageError: nobody sits at the other end.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("data annotate --ask: needs a terminal", hint="fill in `choice` by hand")
    from tunesmith_plugins.commands.annotate.keyboard import Keyboard
    from tunesmith_plugins.commands.annotate.session import Session

    with Keyboard(sys.stdin.fileno()) as keyboard:
        Session(path, keyboard).run()


def _tell(tally: Tally, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": "tunesmith.annotate/1", **asdict(tally)}))
    else:
        click.echo(tally.sentence())
