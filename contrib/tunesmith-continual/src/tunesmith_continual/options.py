"""Options of ``[retention]``: what a training run does to keep earlier tasks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tunesmith.options import DataPath, Options


class RetentionOptions(Options):
    """Table ``[retention]``: keep what the model learned in earlier tasks."""

    earlier: list[DataPath] = Field(
        [],
        description="Run folders of the earlier tasks, whose training rows are replayed or "
        "protected. `tunesmith continue` sets them.",
    )
    replay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Replayed rows of earlier tasks for each row of the new task; each counts as "
        "one row of the batch. What matters is the number of replayed rows, which the run prints.",
    )
    replay_by: Literal["random", "class", "surprise"] = Field(
        "random",
        description="Order of the replayed rows. random: the earlier runs take turns; class: all "
        "answers take turns; surprise: rows with the highest loss first.",
    )
    self_replay: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Replayed answers of the base model (with full fine-tuning, of the model "
        "that training starts from) to general prompts, for each row of the new task. It needs no "
        "earlier rows.",
    )
    self_replay_prompts: DataPath | None = Field(
        None, description="Text file with one prompt per line. Unset: built-in general prompts."
    )
    self_replay_tokens: int = Field(
        64, ge=1, le=2048, description="Maximum tokens of the base model's answers."
    )
    keep: float = Field(
        0.0,
        ge=0,
        description="Weight of the KL divergence from the previous model, in nats per token.",
    )
    keep_on: Literal["new", "earlier"] = Field(
        "new", description="Rows for `keep`: those of the new task, or those of earlier tasks."
    )
    keep_rows: int = Field(2, ge=1, le=64, description="Rows for `keep` in each step.")
    project: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Keep updates out of the subspace that holds this share of the energy of each "
        "layer's inputs on earlier rows, such as 0.95. 0: no projection.",
    )
    project_rows: int = Field(
        64, ge=1, le=4096, description="Rows of each earlier task to compute the subspaces from."
    )
    kl_every: int = Field(
        0,
        ge=0,
        description="Measure the KL divergence from the previous model after every so many steps, "
        "and after the last one. 0: never, or every 5 steps if `budget` is set.",
    )
    kl_on: Literal["earlier", "new"] | None = Field(
        None,
        description="Rows to measure the divergence on: those of earlier tasks, which predicts "
        "forgetting better, or those of the new task. Unset: of earlier tasks if `earlier` names "
        "runs.",
    )
    kl_rows: int = Field(
        16, ge=1, le=256, description="Rows of the new task, or of each earlier run, for it."
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="End training before the predicted loss of score on earlier tasks exceeds "
        "this, such as 0.1.",
    )
    budget_slope: float | None = Field(
        None,
        gt=0,
        description="Predicted loss of score per nat of KL divergence, for small divergences. "
        "`tunesmith continue` fits it to the earlier runs of the chain.",
    )
    budget_score: float | None = Field(
        None,
        ge=0,
        description="Mean score of the earlier tasks, the most that can be lost. `tunesmith "
        "continue` measures it. Unset: without a limit.",
    )

    @model_validator(mode="after")
    def _check(self) -> RetentionOptions:
        if self.needs_rows and not self.earlier:
            raise ValueError(
                "`earlier` names no run whose rows could be used; start this run with `tunesmith "
                "continue RUN NEW.toml`, or name the run folders"
            )
        if self.budget is not None and self.budget_slope is None:
            raise ValueError(
                "`budget` needs `budget_slope`, which `tunesmith continue` fits to a chain whose "
                "runs have `kl_every`; or set it yourself"
            )
        return self

    @property
    def needs_rows(self) -> bool:
        """True if rows of earlier tasks are needed."""
        keeps = self.keep and self.keep_on == "earlier"
        measures = self.measures_every and self.measures_on == "earlier"
        return bool(self.replay or self.project or keeps or measures)

    @property
    def measures_on(self) -> Literal["earlier", "new"]:
        """The rows that the KL divergence is measured on."""
        return self.kl_on or ("earlier" if self.earlier else "new")

    @property
    def measures_every(self) -> int:
        """Number of steps between measurements of the KL divergence; 0: never."""
        return self.kl_every or (5 if self.budget is not None else 0)
