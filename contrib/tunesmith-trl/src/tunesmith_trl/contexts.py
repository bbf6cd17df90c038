"""Change the output folder, end tokens, log and telemetry during TRL's training."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith_torch.options.policy import PolicyOptions

RLOO_LOGGER = "trl.trainer.rloo_trainer"
"""Logger of TRL's RLOO trainer."""


@contextmanager
def output_folder(out: Path) -> Iterator[str]:
    """Create a folder that TRL needs inside the job's folder, and delete it at the end."""
    folder = out / "trl"
    folder.mkdir(exist_ok=True)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def end_tokens(model: Any, end_ids: Sequence[int]) -> Iterator[None]:
    """Make TRL's completions end at the toolkit's end tokens inside the context.

    At the end, also restore the padding token, which TRL sets.
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
    """Silence RLOO's warning about each truncated completion, because it has no reward."""
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
    """Disable TRL's usage reports inside the context, by setting the variable ``CI``."""
    before = os.environ.get("CI")
    os.environ["CI"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
