"""``tunesmith data ablate``: train with and without synthetic rows, and compare."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunesmith import distributed
from tunesmith.errors import UsageError
from tunesmith.storage import lock
from tunesmith.text import format_count, format_duration
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_evidence.number_text import format_estimate, format_number
from tunesmith_synthetic.request import read_request

if TYPE_CHECKING:
    from tunesmith_synthetic.ablation import Ablation

STYLES = {"helped": "good", "not shown": "warning", "harmed": "bad"}


@click.command("ablate")
@click.argument("file", metavar="GEN.toml", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print what would be trained.")
@click.option(
    "--only",
    metavar="ARM-SEED",
    help="Train only this arm and seed, such as synthetic-42, as one of several jobs.",
)
@result_options
def command(state: CliState, file: Path, dry_run: bool, only: str | None, as_json: bool) -> None:
    """Measure whether generated rows help: three arms with the same number of steps.

    The arms are the real rows, real rows upsampled to the same answers, and the real rows with the
    synthetic ones, each with several seeds. The rows helped if the model is better than with both
    controls. The result is written into the data card. Arms that are already trained are not
    trained again.
    """
    if distributed.world_size() > 1:
        raise UsageError(
            "data ablate: this command runs in one process",
            hint="start the command without torchrun",
        )
    request = read_request(file, files=state.files, disabled=state.disabled)
    from tunesmith_synthetic.ablation import Ablation, conclude
    from tunesmith_synthetic.card import write_card
    from tunesmith_synthetic.dataset import read_card

    card = read_card(request.folder)
    if card["fingerprint"] != request.parts.fingerprint or not card["rows"]:
        raise UsageError(
            f"{request.folder}: the rows do not belong to this data",
            hint=f"generate them again: tunesmith data generate {render.shell_path(file)}",
        )
    ablation = Ablation(request)
    render.print_note(describe(ablation, card))
    if dry_run:
        return
    if only is not None:
        measure_one(ablation, only)
        return
    with lock(request.folder):
        result = conclude(ablation, measure_arms(ablation))
        write_card(request, {**card, "sha256": result["sha256"], "ablation": result})
    if as_json:
        render.print_json(result)
    else:
        show(result)


def measure_one(ablation: Ablation, only: str) -> None:
    """Measure one arm with one seed.

    Raises:
        UsageError: there is no such arm and seed.
    """
    jobs = {f"{arm}-{seed}": (arm, seed) for arm, seed in ablation.jobs()}
    if only not in jobs:
        raise UsageError(f"--only {only}: no such arm and seed", hint=f"one of {', '.join(jobs)}")
    render.print_text(f"{only}: {format_number(ablation.measure(*jobs[only]).mean)}")


def describe(ablation: Ablation, card: Mapping[str, Any]) -> str:
    """Describe the cost of the ablation."""
    options = ablation.request.options.ablate
    jobs = ablation.jobs()
    done = sum(ablation.is_done(*job) for job in jobs)
    plan = ablation.request.plan
    what = options.classifier if options.train == "classifier" else plan.technique.offer.name
    rows = len(ablation.request.parts.train) + card["rows"]
    scored = f"{len(ablation.scored):,} {ablation.part} rows"
    known = f", {done} already done" if done else ""
    return (
        f"{len(jobs)} trainings ({what}){known}: 3 arms with {rows:,} training rows each, "
        f"{format_count(options.seeds, 'seed')}, scored on {scored}"
    )


def measure_arms(ablation: Ablation) -> dict[Any, Any]:
    """Measure each arm with each seed; after the first, print how long the others will take."""
    scores, jobs = {}, ablation.jobs()
    for number, (arm, seed) in enumerate(jobs, 1):
        is_new, start = not ablation.is_done(arm, seed), time.monotonic()
        scores[arm, seed] = score = ablation.measure(arm, seed)
        seconds = time.monotonic() - start
        left = format_duration(seconds * (len(jobs) - number))
        rest = f"; about {left} left" if is_new and number < len(jobs) else ""
        render.print_note(
            f"{number} of {len(jobs)}: {arm}, seed {seed}: {format_number(score.mean)}{rest}"
        )
    return scores


def show(result: Mapping[str, Any]) -> None:
    """Print the scores of the arms, and the result."""
    rows = []
    for arm, scores in result["scores"].items():
        difference = result["differences"].get(arm)
        gain = ""
        if difference:
            ends = difference["value"], difference["low"], difference["high"]
            gain = format_estimate(*ends, signed=True)
        rows.append([arm, format_number(sum(scores) / len(scores)), gain])
    headers = ["arm", f"{result['metric']} (mean)", "synthetic minus this arm"]
    render.print_table(headers, rows, right=(1, 2))
    render.print_text()
    render.print_text(result["word"], style=STYLES[result["word"]])
    render.print_paragraph(
        f"on {result['n']:,} {result['rows']} rows, {len(result['seeds'])} seeds; the intervals "
        "cover both"
    )
