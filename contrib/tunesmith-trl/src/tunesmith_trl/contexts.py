"""Changes around TRL's training that are undone after it: end tokens, warnings, telemetry."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tunesmith_torch.options.policy import PolicyOptions

RLOO_LOGGER = "trl.trainer.rloo_trainer"
"""The logger of TRL's RLOO trainer."""


@contextmanager
def end_tokens(model: Any, end_ids: Sequence[int]) -> Iterator[None]:
    """Let TRL's completions end at the same tokens as the toolkit's, inside the context.

    TRL sets the padding token itself; it is restored too.
    """
    config = model.generation_config
    before = config.eos_token_id, config.pad_token_id
    config.eos_token_id = [*end_ids]
    try:
        yield
    finally:
        config.eos_token_id, config.pad_token_id = before


@contextmanager
def no_warnings_about_truncated(options: PolicyOptions) -> Iterator[None]:
    """Silence RLOO's warning about each completion without a reward: the truncated ones."""
    if options.algorithm != "rloo":
        yield
        return
    logger = logging.getLogger(RLOO_LOGGER)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Keep TRL from reporting its use, inside the context: it sends nothing if CI is set."""
    before = os.environ.get("CI")
    os.environ["CI"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
