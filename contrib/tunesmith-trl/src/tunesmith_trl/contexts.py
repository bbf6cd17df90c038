"""Temporary changes during TRL's training: folder, end tokens, log, telemetry."""

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
    """Inside the context, make TRL's completions end at the toolkit's end tokens.

    TRL sets the padding token itself, which is also restored.
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
    """Silence RLOO's warning about each completion without a reward (the truncated ones)."""
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
    """Disable TRL's usage reports inside the context by setting CI."""
    before = os.environ.get("CI")
    os.environ["CI"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
