"""Define the options of a search: the ``[tune]`` table, and the flags of ``tunesmith tune``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator

from tunesmith.offers import TableOffer
from tunesmith.options import Options
from tunesmith_optuna.space import Space, flatten, read_space

FLAGS: Mapping[str, type] = {
    "metric": str, "trials": int, "parallel": int, "minutes": float, "seed": int, "pruner": str,
    "on": str,
}  # fmt: skip
"""Options with a command-line flag, and the types of their values."""
CHANGEABLE = frozenset({"trials", "parallel", "minutes", "pruner", "on"})
"""Options that can change when a search continues, because its results stay comparable."""


class TuneOptions(Options):
    """The ``[tune]`` table: search for the technique's best options. It does not change the run."""

    search: dict[str, JsonValue] = Field(
        {},
        description=(
            "Values to search for each option, by its key: a list of choices, or a range such as "
            "`{ low = 1e-5, high = 1e-3, log = true }`."
        ),
    )
    metric: str = Field(
        "loss",
        min_length=1,
        description="Evaluator metric to optimize, measured on the validation rows.",
    )
    trials: int = Field(
        20, ge=1, le=10_000, description="Number of trials, including failed trials."
    )
    parallel: int = Field(
        1, ge=1, le=1_000, description="Number of trials to run at the same time."
    )
    minutes: float | None = Field(
        None, gt=0, description="Start no new trial after this many minutes. Unset: no limit."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Seed of the search. Unset: the seed of the run."
    )
    pruner: Literal["median", "hyperband", "none"] = Field(
        "median",
        description="Rule that stops bad trials early because of their validation loss, or none.",
    )
    on: str = Field(
        "",
        pattern=r"^[a-z0-9-]*$",
        description="Cluster to run the trials on, such as slurm. Empty: this machine.",
    )

    @field_validator("search")
    @classmethod
    def _check_search(cls, search: dict[str, JsonValue]) -> dict[str, JsonValue]:
        read_space(search)
        return flatten(search)

    @property
    def space(self) -> Space:
        """The search space, with the possible values of each option."""
        return read_space(self.search)


TUNE: TableOffer[Any] = TableOffer(
    name="tune",
    summary="a search for the technique's best options, for `tunesmith tune`",
    config=TuneOptions,
)
