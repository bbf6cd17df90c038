"""Options of a generation file: which rows to generate, to keep and to measure."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from tunesmith.options import DataPath, Options
from tunesmith_evidence.endpoint.address import URL_PATTERN, check_endpoint


class JudgeOptions(Options):
    """The ``[filter.judge]`` table: a model at a server that judges whether a row is right."""

    url: str = Field(pattern=URL_PATTERN, description="Address of the server, up to `/v1`.")
    model: str = Field(min_length=1, description="Name of the model at the server.")
    token: str | None = Field(
        default=None,
        description="Environment variable with the key, never the key itself.",
    )
    criterion: str = Field(
        default="The answer is a correct and complete answer to the request.",
        min_length=1,
        description="Criterion that each row must meet.",
    )
    parallel: int = Field(
        default=4, ge=1, le=256, description="Number of requests at the same time."
    )

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: str | None, info: ValidationInfo) -> str | None:
        check_endpoint(info.data.get("url", ""), token)
        return token


class FilterOptions(Options):
    """The ``[filter]`` table: the rows to reject."""

    max_characters: int = Field(
        default=8_000,
        ge=1,
        description="Maximum characters of prompt and answer together.",
    )
    known_answers: bool = Field(
        default=True,
        description=(
            "Reject answers that the training rows rule out: other labels if answers are classes, "
            "other keys if they are JSON objects."
        ),
    )
    test_spelling: float = Field(
        default=0.88,
        gt=0,
        le=1,
        description=(
            "Share of equal characters, of equal words in any order, or of quoted words with the "
            "most similar validation or test prompt, at which a row is a leak. Case, punctuation "
            "and look-alike letters are ignored. Near-duplicates by n-grams are always leaks."
        ),
    )
    test_meaning: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description=(
            "Cosine similarity of encoder vectors at which a row is a leak, if the run file has "
            "`[encoder]`."
        ),
    )
    agree: list[str] = Field(
        default=[],
        description=(
            "Baselines that must give the same answer, such as `embedding`. They learn from the "
            "real training rows."
        ),
    )
    judge: JudgeOptions | None = Field(
        default=None, description="Model that judges whether a row is right. Unset: no judge."
    )


class BalanceOptions(Options):
    """The ``[balance]`` table: which rows to keep first."""

    answers: bool = Field(
        default=False,
        description="Prefer answers with few rows, so that all answers get equal numbers of rows.",
    )
    towards: DataPath | None = Field(
        default=None,
        description=(
            "File of production prompts. Rows similar to prompts that the training rows do not "
            "cover come first."
        ),
    )


class AblateOptions(Options):
    """The ``[ablate]`` table: how to measure whether the rows help."""

    train: Literal["technique", "classifier"] = Field(
        default="technique",
        description=(
            "Train with the run file's technique, or a classifier in seconds, which says "
            "little about the technique."
        ),
    )
    classifier: str = Field(default="embedding", description="Baseline to train with `classifier`.")
    metric: str = Field(
        default="exact-match",
        description="Metric that shows whether the rows help, such as exact-match.",
    )
    seeds: int = Field(default=3, ge=3, le=20, description="Number of seeds of each arm.")
    rows: Literal["validation", "test"] = Field(
        default="validation",
        description=(
            "Real rows that the metric is measured on. Whether to use synthetic rows is a choice, "
            "and test rows should not make choices. If there are no validation rows, test rows "
            "are used, and the card states it."
        ),
    )


class CardOptions(Options):
    """The ``[card]`` table: facts for the data card that only you know."""

    name: str = Field(default="synthetic-rows", min_length=1, description="Name of the dataset.")
    description: str = Field(default="", description="Purpose of the rows.")
    license: str = Field(default="", description="License of the rows, an SPDX id or an address.")
    url: str = Field(default="", description="Address of the dataset.")
    sources: list[str] = Field(
        default=[],
        description="Sources of the rows with their licenses: real rows, models, lists.",
    )


class GenerationOptions(Options):
    """The keys of a generation file, which ``tunesmith data generate`` reads."""

    run: DataPath = Field(
        min_length=1,
        description="Run file with the parent rows. Rows that repeat its test rows are rejected.",
    )
    out: DataPath = Field("synthetic", description="Folder to write.")
    count: int = Field(1_000, ge=1, le=10_000_000, description="Maximum number of proposed rows.")
    share: float = Field(
        0.5, gt=0, lt=1, description="Maximum share of synthetic rows among all training rows."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Seed of the generation. Unset: the seed of the run."
    )
    generator: dict[str, Any] = Field(
        min_length=1, description="Name of the generator (`use`), and its options."
    )
    filter: FilterOptions = Field(default=FilterOptions(), description="The rows to reject.")
    balance: BalanceOptions = Field(
        default=BalanceOptions(), description="Which rows to keep first."
    )
    ablate: AblateOptions = Field(
        default=AblateOptions(), description="How to measure whether the rows help."
    )
    card: CardOptions = Field(default=CardOptions(), description="Facts for the data card.")
