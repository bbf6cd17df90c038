"""Data loader ``synthetic``: the real rows of a run, with synthetic training rows added.

The real rows keep their split, and none is replaced. Other ``arm`` values are the controls of the
ablation: they have the same number of rows, so an epoch has the same number of optimizer steps.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith import api
from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.execution.run_data import load_data
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import DataPath, Options
from tunesmith.records import Record
from tunesmith_synthetic.dataset import PLAN, read_dataset, read_plan_file
from tunesmith_synthetic.generators.pool import read_answer

Arm = Literal["real", "upsampled", "synthetic"]


class SyntheticOptions(Options):
    """Options of ``[data] use = "synthetic"``, which `tunesmith data generate` writes."""

    folder: DataPath = Field(
        min_length=1, description="Folder that `tunesmith data generate` wrote."
    )
    arm: Arm = Field(
        "synthetic",
        description=(
            "Rows to add: synthetic, upsampled (real rows with the same answers instead), or real "
            "(all real rows equally often)."
        ),
    )
    seed: int = Field(0, ge=0, description="Seed of the rows that `upsampled` and `real` repeat.")
    score: Literal["test", "validation"] = Field(
        "test", description="Real rows that become the test rows."
    )


@dataclass(frozen=True)
class SyntheticLoader:
    """Loads the real rows, and adds rows to the training rows."""

    options: SyntheticOptions

    def load(self) -> Dataset:
        """Return the real splits, with rows added to the training rows.

        Raises:
            DataError: the folder is not a generation, or the real rows have changed since.
        """
        folder = Path(self.options.folder)
        plan, _ = api.load_plan(read_plan_file(folder), runnable=False)
        dataset, parts = load_data(plan)
        found = read_dataset(folder)
        if found.card["fingerprint"] != parts.fingerprint:
            raise DataError(
                f"{folder / PLAN}:1",
                "the real rows, or their split, have changed since the rows were generated",
                hint="generate again: rows may now be copies of test rows",
            )
        scored = parts.validation if self.options.score == "validation" else parts.test
        added = add_rows(parts.train, found.records, self.options.arm, self.options.seed)
        return Dataset(
            train=[*parts.train, *added],
            validation=[*parts.validation] or None,
            test=[*scored],
            skipped=dataset.skipped,
            description=f"{dataset.description}; {len(added):,} rows added ({self.options.arm})",
        )


def add_rows(
    real: Sequence[Record], synthetic: Sequence[Record], arm: Arm, seed: int
) -> Sequence[Record]:
    """Return the rows that an arm adds: as many as there are synthetic rows."""
    if arm == "synthetic" or not real:
        return synthetic
    rng = random.Random(f"{arm}/{seed}")
    if arm == "real":
        full, rest = divmod(len(synthetic), len(real))
        return [*real] * full + rng.sample([*real], rest)
    by_answer: dict[str, list[Record]] = defaultdict(list)
    for record in real:
        by_answer[read_answer(record)].append(record)
    return [rng.choice(by_answer.get(read_answer(record)) or [*real]) for record in synthetic]


SYNTHETIC: DataLoaderOffer[Any] = DataLoaderOffer(
    name="synthetic",
    summary="the rows of another run file, with the training rows of `tunesmith data generate`",
    config=SyntheticOptions,
    build=SyntheticLoader,
)
