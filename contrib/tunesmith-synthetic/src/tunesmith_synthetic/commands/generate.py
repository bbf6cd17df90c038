"""``tunesmith data generate``: generate, filter and write synthetic training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tunesmith.contracts import SkippedRow
from tunesmith.errors import UsageError
from tunesmith.fence import attribute_errors_to
from tunesmith.generators import GeneratedRow
from tunesmith.storage import lock
from tunesmith.storage.atomic import explain_os_errors, make_folder
from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_evidence.number_text import format_share
from tunesmith_synthetic.request import Request, read_request

PROGRESS_ROWS = 500


@click.command("generate")
@click.argument("file", metavar="GEN.toml", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check everything, and print the cost.")
@result_options
def command(state: CliState, file: Path, dry_run: bool, as_json: bool) -> None:
    """Generate training rows from those of a run, without duplicates and leaks.

    The rows, the rejected rows with their causes, a data card and a run file are written to a
    folder. A generation that was stopped or killed continues with the same command. Measure whether
    the rows help with `tunesmith data ablate GEN.toml`.
    """
    request = read_request(file, files=state.files, disabled=state.disabled)
    render.print_note(describe(request))
    if dry_run:
        return
    card = generate(request)
    if as_json:
        render.print_json(card)
    else:
        show(request, card)
        shown = render.shell_path(file)
        render.print_note(f"next: measure whether they help: tunesmith data ablate {shown}")


def describe(request: Request) -> str:
    """Describe what will be generated, and its cost."""
    offer, count = request.generator.offer, request.options.count
    cost = offer.describe_cost(request.generator.config, count)
    rows = format_count(len(request.parts.train), "training row")
    limit = f"{offer.name}: up to {count:,} rows from {rows}"
    return f"{limit}; {cost}" if cost else limit


def generate(request: Request) -> Mapping[str, Any]:
    """Generate, filter and write the rows; return the card."""
    # Imported here because the filter needs scikit-learn.
    from tunesmith_synthetic.card import build_card, write_card
    from tunesmith_synthetic.dataset import write_dataset
    from tunesmith_synthetic.filter import drop_leaked_questions, filter_rows

    with explain_os_errors(request.folder):
        make_folder(request.folder)
    # Two processes in one folder would send the same requests, and mix their files.
    with lock(request.folder):
        rows, skipped = propose_rows(request)
        drop_leaked_questions(request)
        kept = filter_rows(request, rows)
        write_dataset(request, kept)
        card = build_card(request, kept, skipped)
        write_card(request, card)
    return card


def propose_rows(request: Request) -> tuple[list[GeneratedRow], list[SkippedRow]]:
    """Return the rows that the generator proposes, and its failed attempts."""
    rows: list[GeneratedRow] = []
    skipped: list[SkippedRow] = []
    offered = request.generator.offered
    with attribute_errors_to(offered.plugin, " while it generated rows"):
        generator = offered.offer.build(request.generator.config)
        for found in generator.generate(request.generator_task()):
            if isinstance(found, GeneratedRow):
                rows.append(found)
            else:
                skipped.append(found)
            if (len(rows) + len(skipped)) % PROGRESS_ROWS == 0:
                render.print_note(f"{len(rows):,} rows proposed, {len(skipped):,} attempts failed")
    return rows, skipped


def show(request: Request, card: Mapping[str, Any]) -> None:
    """Print how many rows were kept and rejected, by cause."""
    kept, real = card["rows"], card["real_rows"]
    causes = Counter(card["rejected"]) + Counter(card["skipped"])
    rows = [["kept", f"{kept:,}"], *([cause, f"{n:,}"] for cause, n in causes.most_common())]
    render.print_table(["rows", "count"], rows, right=(1,))
    render.print_text()
    if not kept:
        raise UsageError(
            f"{request.folder}: no row was kept",
            hint="the table above has the causes; rejected.jsonl has the rows",
        )
    share = format_share(card["share"])
    render.print_paragraph(
        f"wrote {format_count(kept, 'synthetic row')} to {request.folder}: {share} of the training "
        f"rows, with {format_count(real, 'real row')}"
    )
    asked = request.folder / "to-label.jsonl"
    if asked.is_file() and asked.stat().st_size:
        path = render.shell_path(asked)
        render.print_note(f"next: label the disputed rows: tunesmith data annotate --ask {path}")
