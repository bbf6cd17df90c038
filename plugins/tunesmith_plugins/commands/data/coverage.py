"""Estimate the share of production traffic that the training data does not cover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.encoders import Encoder
from tunesmith.errors import UsageError
from tunesmith.execution.encoder import find_encoder, open_checked
from tunesmith.offers import EncoderOffer
from tunesmith.plan import Component, Plan
from tunesmith.records import Record
from tunesmith.text import format_count, mask_personal_data, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState
from tunesmith_cli.data_source import load_file
from tunesmith_data.coverage import (
    Coverage,
    is_prompt_file,
    measure_coverage,
    read_prompts,
)
from tunesmith_data.splits import PromptTexts

FC = TypeVar("FC", bound=Callable[..., Any])
SHOWN_CHARACTERS = 120
JSON_CHARACTERS = 2_000


def against_options(function: FC) -> FC:
    """Add the options for the file of production rows and for the encoder to compare them with."""
    function = click.option(
        "--encoder",
        "encoder_name",
        metavar="NAME",
        help="With --against: compare meanings by this installed encoder, not character n-grams. "
        "Default: [encoder] in the run file.",
    )(function)
    return click.option(
        "--against",
        "production_file",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Production prompts: JSON Lines or one prompt per line; answers are not needed.",
    )(function)


@dataclass(frozen=True)
class Traffic:
    """Production rows compared with training rows."""

    found: Coverage
    rows: list[dict[str, Any]]
    """Rows to label: source, text, similarity, p-value and nearest training row."""
    skipped: int
    """Number of production rows that cannot be read."""

    def to_json(self) -> dict[str, Any]:
        """Return the estimated share and the rows to label as JSON."""
        return {**asdict(self.found), "chosen": self.rows, "skipped": self.skipped}

    def show(self) -> None:
        """Print the share of traffic outside the training data, and the rows to label."""
        _print(self.found, self.rows, self.skipped)


def open_encoder(name: str | None, plan: Plan | None, catalog: Catalog) -> Encoder | None:
    """Return the named encoder or the run file's encoder, or None to compare character n-grams.

    Raises:
        UsageError: no encoder of this name is installed.
    """
    if name is None:
        found = find_encoder(plan) if plan and plan.encodes_everywhere else None
        return found and found()
    try:
        offered = catalog.find(EncoderOffer, name)
    except OfferNotFoundError as error:
        raise UsageError(f"--encoder: {error.what}", hint=error.hint) from None
    return open_checked(Component(offered, offered.offer.config()))


def measure_traffic(
    train: Sequence[Record], file: Path, state: CliState, encoder: Encoder | None = None
) -> Traffic:
    """Compare the production rows of a file with training rows.

    Raises:
        DataError: the rows cannot be compared, or the file cannot be read.
    """
    production, skipped = _load_production(file, state)
    found = measure_coverage(PromptTexts(train), PromptTexts(production), encoder=encoder)
    rows = [
        {
            "source": production[row.row].source,
            "text": mask_personal_data(PromptTexts(production)[row.row])[:JSON_CHARACTERS],
            "similarity": row.similarity,
            "p_value": row.p_value,
            "similar_rows": row.similar_rows,
            "nearest": train[row.nearest].source,
        }
        for row in found.chosen
    ]
    return Traffic(found, rows, skipped)


def _load_production(path: Path, state: CliState) -> tuple[Sequence[Record], int]:
    """Return the production rows, and the number of rows that cannot be read."""
    if is_prompt_file(str(path)):
        dataset = read_prompts(path)
        return dataset.train, len(dataset.skipped)
    dataset = load_file({"train": str(path)}, state.catalog()).dataset
    return dataset.train, len(dataset.skipped)


def _print(found: Coverage, rows: Sequence[dict[str, Any]], skipped: int) -> None:
    share = found.share
    interval = f"[{100 * share.low:.0f}, {100 * share.high:.0f}]"
    count = format_count(len(rows), "row")
    advice = f"; label the {count} below" if share.low > 0 and rows else ""
    headline = f"{100 * share.estimate:.0f} % {interval} of traffic is outside the training data"
    render.print_paragraph(headline + advice, style="strong")
    sampled = "" if found.compared_rows == found.rows else f", a sample of {found.rows:,},"
    render.print_paragraph(
        f"{found.compared_rows:,} production rows{sampled} were compared with {found.train_rows:,} "
        f"training rows. {found.near_duplicates:,} are near-duplicates of a training row. "
        f"{found.outside:,} are less similar than {found.similarity_limit:.2f} to every training "
        "row. For comparison, 5 % of the training rows are this dissimilar to all others."
    )
    if skipped:
        text = f"skipped {format_count(skipped, 'production row')} that cannot be read"
        render.print_text(text, style="warning")
    if found.is_blind:
        render.print_paragraph(
            "The training rows differ so much from each other that even unrelated text may not "
            "stand out. Ignore the lower limit",
            style="warning",
        )
    if not rows:
        return
    if not share.low:
        render.print_text("The rows below may be false positives.")
    cells = [
        [
            f"{row['similarity']:.2f}",
            f"{row['similar_rows']:,}",
            one_line(row["source"]),
            one_line(row["text"], SHOWN_CHARACTERS),
        ]
        for row in rows
    ]
    render.print_table(["similarity", "stands for", "row", "text"], cells, right=(0, 1))
