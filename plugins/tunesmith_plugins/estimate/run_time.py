"""Predict the time of the parts of a run (baselines, training and evaluation) in seconds.

The work of answering a row is expressed as a number of forward passes of tokens. A forward pass is
a third of the work of training on a token. A generated token counts as several forward passes,
because few rows are computed at once. For the first run on a device, the speed of a layer of the
model is measured (:mod:`tunesmith_torch.memory_estimate.speed`), or the prediction is rough.
Earlier runs correct later predictions (:mod:`tunesmith_plugins.estimate.calibration`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from tunesmith.estimates import Estimate
from tunesmith.execution.suitable_baselines import choose_baselines
from tunesmith.plan import ModelReview
from tunesmith.records import Record, exchanges
from tunesmith_plugins.estimate.calibration import Calibration
from tunesmith_plugins.estimate.hardware import Range
from tunesmith_torch.runtime.machine import Device

if TYPE_CHECKING:
    from tunesmith_torch.memory_estimate.speed import Speed

FORWARD_SHARE = 1 / 3
"""Share of the forward pass in the operations of training."""
UNITS_PER_GENERATED_TOKEN: Range = (5, 25)
FORWARD_SHARE_OF_MEASURED: Range = (0.45, 1.2)
"""Lowest and highest speed of answering, as a share of the measured speed of a layer."""
GENERATED_SHARE_OF_MEASURED: Range = (0.4, 1.5)
"""The same for the cost of a generated token; batches have up to four times the measured rows."""
CHARACTERS_PER_TOKEN = 4
SAMPLE_ROWS = 200
"""Number of rows whose lengths are measured."""
CHOOSING_ROWS: Range = (20, 60)
"""Lowest and highest number of validation rows that all variants of a baseline answer together."""
PROMPT_GROWTH = {"retrieval": 6, "prompt": 2}
"""Maximum ratio of a prompt's length with worked examples to without, by kind of solution."""
CLASSIFIERS: Range = (1, 20)
"""Shortest and longest seconds to import a classifier's libraries, fit and cross-validate it."""
LOADING: Range = (1, 10)
"""Shortest and longest seconds to load a model, or to read it back after training."""
OVERHEAD = 3.0
"""Seconds that a part can be shorter or longer because of imports and files."""
OUTSIDE_STEPS = 1.25
"""Highest ratio of the time of training to that of its steps; validation takes the rest."""


@dataclass(frozen=True)
class ForwardSpeed:
    """The speed of forward passes."""

    operations: Range
    """Operations per second."""
    generated_token: Range = UNITS_PER_GENERATED_TOKEN
    """Number of prompt tokens that are computed in the time of a generated one."""

    @classmethod
    def from_measured(cls, speed: Speed) -> ForwardSpeed:
        """Return the range of the speed of answering around the measured speed of a layer."""
        low, high = FORWARD_SHARE_OF_MEASURED
        few, many = GENERATED_SHARE_OF_MEASURED
        token = max(1, few * speed.generated_token), max(1, many * speed.generated_token)
        return cls((low * speed.forward, high * speed.forward), token)


@dataclass(frozen=True)
class RunTime:
    """The predicted time of each part of a run in seconds, by the name of the part."""

    parts: dict[str, Range]
    uncalibrated: dict[str, float]
    """The middle of each part that can be calibrated, before calibration."""


def predict_run_time(  # noqa: PLR0913 - a part is predicted from any of these
    review: ModelReview,
    estimate: Estimate,
    training: Range | None,
    listed: ForwardSpeed | None,
    calibration: Calibration,
    device: Device,
    measured: ForwardSpeed | None = None,
) -> RunTime:
    """Predict the time of each part of a run, in order, except parts without a prediction.

    Args:
        training: predicted time of the training steps, in seconds.
        listed: speed from the hardware table, which calibration corrects.
        measured: speed of this machine, for the parts that no earlier run corrects. ``training``
            must come from the same measurement.
    """
    raw = _predict_raw(review, estimate, listed) if listed and estimate.tokens else {}
    parts = {
        part: calibration.correct_part(part, seconds, estimate) for part, seconds in raw.items()
    }
    known = {part for part, seconds in raw.items() if parts[part] != seconds}
    if training is not None:
        low, high = training
        parts["training"] = low + LOADING[0], high * OUTSIDE_STEPS + LOADING[1]
        if calibration.throughput(review.plan.technique.offer.name, estimate) is not None:
            known.add("training")
    if measured and estimate.tokens:
        again = _predict_raw(review, estimate, measured)
        parts |= {part: seconds for part, seconds in again.items() if part not in known}
    busy = measure_load(device)
    predicted: dict[str, Range] = {}
    for part in ("baselines", "training", "evaluation"):
        if part in parts:
            low, high = parts[part]
            if part in known:  # earlier runs shared the processor too, so some load is included
                slower = 1.0, math.sqrt(busy)
            elif measured:  # the measurement shared it as the run will
                slower = 1.0, 1.0
            else:
                slower = math.sqrt(busy), busy
            predicted[part] = max(0, low * slower[0] - OVERHEAD), high * slower[1] + OVERHEAD
    middles = {part: math.sqrt(low * high) for part, (low, high) in raw.items()}
    return RunTime(predicted, middles)


def _predict_raw(review: ModelReview, estimate: Estimate, speed: ForwardSpeed) -> dict[str, Range]:
    plan, test = review.plan, len(review.test)
    flops = estimate.flops / estimate.tokens * FORWARD_SHARE
    unit = flops / speed.operations[1], flops / speed.operations[0]
    prompt, answer = _mean_lengths(review.test or review.train, plan.found_model.tokenizer())
    generating = [evaluator for evaluator in plan.evaluators if evaluator.offer.generates]
    limits = [e.offer.answer_limit(e.config, review.test or review.train) for e in generating]
    longest = max(answer, *(limit or 0 for limit in limits), 0)

    def time_of(rows: float, end: int, growth: float = 1, answer: float = answer) -> float:
        """Return the seconds for answering rows: the minimum (``end`` 0) or the maximum (1)."""
        generated = answer * speed.generated_token[end] if generating else answer
        return rows * (growth * prompt + generated) * unit[end]

    first = next(iter(plan.evaluators), None)
    baselines = choose_baselines(plan, review.train, first) if plan.evaluators else ()
    options = plan.baseline_options
    low = high = 0.0
    for offer in (baseline.offer for baseline in baselines):
        if not offer.needs_model:
            low, high = max(low, CLASSIFIERS[0]), max(high, CLASSIFIERS[1])
            continue
        growth = PROMPT_GROWTH.get(offer.solution, 1)
        rows = min(options.max_rows or test, test)
        low += time_of(CHOOSING_ROWS[0] + rows, 0) + LOADING[0] / len(baselines)
        # An untuned model often does not end its answers before the limit.
        high += time_of(CHOOSING_ROWS[1] + rows, 1, growth, longest) + LOADING[1] / len(baselines)
    found = {"baselines": (low, high)} if baselines else {}
    if plan.evaluators:
        found["evaluation"] = LOADING[0] + time_of(test, 0), LOADING[1] + time_of(2 * test, 1)
    return found


def _mean_lengths(records: Sequence[Record], tokenizer: Path | None) -> Range:
    """Return the mean numbers of tokens in prompts and answers.

    Without a tokenizer, they are estimated from characters.
    """
    sample = [records[row] for row in range(0, len(records), -(-len(records) // SAMPLE_ROWS) or 1)]
    pairs = [pair for record in sample for pair in exchanges(record)]
    if not pairs:
        return 1, 1
    texts = [
        prompt if isinstance(prompt, str) else " ".join(m.shown_text for m in prompt)
        for prompt, _ in pairs
    ]
    answers = [answer.shown_text for _, answer in pairs]
    counts = _count_tokens([*texts, *answers], tokenizer)
    prompt, answer = fmean(counts[: len(texts)]), fmean(counts[len(texts) :])
    return max(1.0, prompt), max(1.0, answer)


def _count_tokens(texts: Sequence[str], tokenizer: Path | None) -> Sequence[float]:
    """Return the number of tokens in each text, without those that a template adds."""
    if tokenizer is None:
        return [len(text) / CHARACTERS_PER_TOKEN for text in texts]
    from tunesmith_torch.models.loading import load_tokenizer

    encode = load_tokenizer(tokenizer)
    return [len(ids) for ids in encode([*texts], verbose=False).input_ids]


def measure_load(device: Device) -> float:
    """Return how much other programs on the processor slow a run down, as a factor of its time."""
    if device.type != "cpu" or not hasattr(os, "getloadavg"):
        return 1.0
    others = max(0.0, os.getloadavg()[0] - 1)  # without this process
    return 1 + others / max(1, device.cores)
