"""``tunesmith data canaries``: inject random secrets into training rows."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.records import Chat, Completion, Record, Text
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.data_source import DataSource, data_argument
from tunesmith_data.write_rows import record_to_row
from tunesmith_evidence.side_effects.canaries import (
    CONTROLS_PER_CANARY,
    MIN_CONTROLS,
    CanarySet,
    RecordKind,
    draw_canaries,
)
from tunesmith_plugins.commands.data.open_data import count_skipped, open_rows, show_skipped

KINDS: dict[type[Record], RecordKind] = {Chat: "chat", Completion: "completion", Text: "text"}


@click.command("canaries")
@data_argument
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="JSON Lines file to write: the rows with the secrets among them.",
)  # fmt: skip
@click.option(
    "--secrets", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="File to write the secrets and their controls to, for the `canaries` evaluator.",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(1, 1000), default=15, show_default=True,
    help="Number of secrets to inject.",
)  # fmt: skip
@click.option(
    "--repetitions", type=click.IntRange(1, 1000), multiple=True, default=(1, 4, 16),
    show_default=True, help="How often to inject a secret. Repeatable: numbers are used in turn.",
)  # fmt: skip
@click.option(
    "--controls", type=click.IntRange(MIN_CONTROLS, 100_000), default=1000, show_default=True,
    help=(
        "Number of control secrets, which are not injected; the injected ones are ranked among "
        "them."
    ),
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0), help="Seed to reproduce the same secrets. Default: random."
)
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    data: DataSource,
    out: Path,
    secrets: Path,
    count: int,
    repetitions: tuple[int, ...],
    controls: int,
    seed: int | None,
    as_json: bool,
) -> None:
    """Inject random secrets into training rows, to measure what a model memorizes.

    The file is not changed. Train on the rows in --out with a separate test file, and give the
    --secrets file to the `canaries` evaluator. Train the model that you deploy on the original
    rows, without the secrets.
    """
    for path in (out, secrets):
        if path.exists():
            raise UsageError(f"{path}: already exists", hint="choose another file name")
    if controls < CONTROLS_PER_CANARY * count:
        needed = CONTROLS_PER_CANARY * count
        raise UsageError(
            f"--controls: {controls:,} controls are too few to show whether any of {count} secrets "
            "was memorized",
            hint=f"use {needed:,} or more, or lower --count",
        )
    dataset = open_rows(data, state)
    records = dataset.train
    kinds = {type(record) for record in records}
    kind = KINDS.get(kinds.pop()) if len(kinds) == 1 else None
    if kind is None:
        raise UsageError(
            f"{data.path}: all rows must be of the same kind (texts, prompts or conversations)",
            hint="split the file by kind, and run the command on each part",
        )
    planned = [repetitions[number % len(repetitions)] for number in range(count)]
    drawn = draw_canaries(kind, planned, controls, seed)
    rows = [record_to_row(record) for record in inject(records, drawn, seed)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(secrets, json.dumps(drawn.to_json(), indent=1) + "\n")
    write_atomic(out, lines)
    if as_json:
        result = {"out": str(out), "secrets": str(secrets), "rows": len(rows), "injected": planned}
        result["skipped"] = count_skipped(dataset)
        render.print_json({"schema": "tunesmith.data-canaries/1", **result})
        return
    show_skipped(dataset)
    render.print_text(f"wrote {len(rows):,} rows, {sum(planned):,} with a secret, to {out}")
    render.print_text(
        f"wrote {format_count(count, 'secret')} and {controls:,} controls to {secrets}"
    )


def inject(records: Sequence[Record], drawn: CanarySet, seed: int | None) -> list[Record]:
    """Return the rows with the canaries inserted at random positions."""
    rng = random.Random(None if seed is None else f"{seed}/places")
    injected = [
        secret.to_record(drawn.kind, "canary")
        for secret, count in zip(drawn.canaries, drawn.repetitions, strict=True)
        for _ in range(count)
    ]
    rng.shuffle(injected)
    total = len(records) + len(injected)
    places = set(rng.sample(range(total), len(injected)))
    rows, secrets = iter(records), iter(injected)
    return [next(secrets if place in places else rows) for place in range(total)]
