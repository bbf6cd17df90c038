"""Checks for silent bugs in fine-tuning: no error is raised, and the loss looks fine.

The checks only need the contract of techniques, so they apply to every technique:

* Scores do not depend on the other scored rows, or on the date.
* The seed is used.
* The loss does not include prompts.
* The saved model is the trained one.
* Splitting a batch into micro-batches changes nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunesmith.contracts import TextModel
from tunesmith.events import TrainingStarted
from tunesmith.records import Answer, Prompt, Record, exchanges, to_answer
from tunesmith.testing.checks import NotApplicable, Subject, check, require
from tunesmith.testing.techniques.setup import SEED, TrainingRun, TrainingSetup, train_once

TOLERANCE = 1e-3
"""Tolerance for sums in a different order: in nats for token scores, relative for losses."""
UPDATE_TOLERANCE = 10 * TOLERANCE
"""Tolerance after an update, which is larger because Adam divides small gradients by their size."""
ROUNDING = {"bf16": 2**-8, "bfloat16": 2**-8, "fp16": 2**-11, "float16": 2**-11}
"""Largest relative rounding error by the name of a precision; fp32 has 2**-24."""
ROUNDINGS = 16
"""Number of consecutive roundings in a small model, about four in each layer.

Batches of different shapes use matrix products of different shapes, so sums are rounded at other
places. The errors have random signs, so n errors grow like the square root of n. A loss is a mean
over at least as many tokens, which divides by that root again, so it has the error of one rounding.
"""
ZONES = ("Etc/GMT+12", "Etc/GMT-14")
"""Two time zones whose dates always differ."""
MICRO_OPTION = "micro_batch_tokens"
PACKING_OPTION = "packing"


@check("technique")
def scores_do_not_depend_on_batching(subject: Subject) -> None:
    """The scores of an answer, and generated answers, do not depend on the other prompts."""
    setup, training, path = train_once(subject)
    error = math.sqrt(ROUNDINGS) * _rounding(training)
    model = setup.open(path)
    pairs = _pairs(setup.examples)
    together = _scores(model, pairs)
    backwards = _scores(model, pairs[::-1])[::-1]
    alone = [_scores(model, [pair])[0] for pair in pairs]
    for name, others in (("in another order", backwards), ("alone", alone)):
        for (prompt, _), first, second in zip(pairs, together, others, strict=True):
            require(
                len(first) == len(second)
                and all(
                    math.isclose(a, b, rel_tol=error, abs_tol=max(TOLERANCE, error))
                    for a, b in zip(first, second, strict=True)
                ),
                f"the answer to {prompt!r:.60} has different scores {name}",
            )
    prompts = [prompt for prompt, _ in pairs]
    texts = [generation.text for generation in model.generate(prompts, 8)]
    again = [model.generate([prompt], 8)[0].text for prompt in prompts]
    require(texts == again, f"the model generates {again!r:.80} alone, but {texts!r:.80} together")


@check("technique")
def scores_do_not_depend_on_the_day(subject: Subject) -> None:
    """Scores are the same tomorrow, even if the chat template uses the date."""
    if not hasattr(time, "tzset"):
        raise NotApplicable("this system cannot change the time zone of a process")
    setup = TrainingSetup.of(subject)
    folder = setup.folder / "dated"
    if not folder.exists():
        shutil.copytree(setup.model, folder)
        _add_date(folder)
    days = []
    for zone in ZONES:
        with _time_zone(zone):
            model: TextModel = subject.build().open(folder, None, device="cpu")
            days.append(_scores(model, _pairs(setup.examples)))
    require(days[0] == days[1], "the scores differ from one day to the next")


@check("technique")
def uses_the_seed(subject: Subject) -> None:
    """Another seed changes the training: the order of rows, or the initial weights."""
    setup, first, _ = train_once(subject)
    if first.losses() != setup.train("seed", seed=SEED + 1).losses():
        return
    backwards = setup.train("backwards", train=setup.examples[::-1])
    if first.losses() == backwards.losses():
        raise NotApplicable("the losses do not depend on the order of rows")
    require(
        False, "a different seed gives exactly the same losses, but a different row order does not"
    )


@check("technique")
def does_not_train_prompts(subject: Subject) -> None:
    """The model learns answers only: prompts do not become likely answers themselves."""
    setup, _, path = train_once(subject)
    pairs = _pairs(setup.examples)
    prompts = [(prompt, _last_text(prompt)) for prompt, _ in pairs]
    if setup.margin(None) is not None or not any(text for _, text in prompts):
        raise NotApplicable("the technique trains on preferences, or on texts without prompts")
    before, after = setup.open(None), setup.open(path)

    def gain(answered: Sequence[Pair]) -> float:
        return _mean(_scores(after, answered)) - _mean(_scores(before, answered))

    others = [prompts[n - 1][0] for n in range(len(prompts))]
    texts = [text for _, text in prompts]
    # Training makes any text of letters more likely, and the reversed texts measure by how much.
    backwards = gain([(p, text[::-1]) for p, text in zip(others, texts, strict=True)])
    learned = gain(list(zip(others, texts, strict=True))) - backwards
    answers = gain(pairs) - backwards
    require(
        learned <= max(0.015, 0.5 * answers),
        f"prompts became more likely as answers, by {learned:.2f} nats per token more than other "
        f"texts; the answers became more likely by {answers:.2f}",
    )


@check("technique")
def saves_what_it_trained(subject: Subject) -> None:
    """The saved model comes from the last steps: its loss is not above their losses."""
    setup, training, path = train_once(subject)
    losses = training.losses()
    base = -_mean(_scores(setup.open(None), _pairs(setup.examples)))
    has_stages = len(training.stages()) > 1
    if has_stages or not losses or abs(losses[0] - base) > 0.25 * base:
        raise NotApplicable("the reported loss is not the loss of the answers")
    last = losses[-max(1, len(losses) // 3) :]
    saved = -_mean(_scores(setup.open(path), _pairs(setup.examples)))
    require(
        saved <= max(last) * 1.05 + 0.05,
        f"the saved model has the loss {saved:.4f}, but the last steps reported {max(last):.4f}",
    )


@check("technique")
def micro_batches_change_nothing(subject: Subject) -> None:
    """A batch computed in small micro-batches has the same loss, gradient and update."""
    if MICRO_OPTION not in subject.offer.config.model_fields:
        raise NotApplicable(f"the technique has no option {MICRO_OPTION}")
    _change_nothing(subject, "micro", MICRO_OPTION, 16)


@check("technique")
def packing_changes_nothing(subject: Subject) -> None:
    """Packed rows have the same loss, gradient and update as padded rows."""
    packing = subject.offer.config.model_fields.get(PACKING_OPTION)
    if packing is None or packing.annotation is not bool:
        raise NotApplicable(f"the technique has no boolean option {PACKING_OPTION}")
    _change_nothing(
        subject, "padded", PACKING_OPTION, not getattr(subject.options(), PACKING_OPTION)
    )


def _change_nothing(subject: Subject, name: str, option: str, value: object) -> None:
    """Train with a different value of an option; require that the first two steps are the same."""
    setup, first, _ = train_once(subject)
    changed = setup.train(name, changes={option: value})
    one, other = first.steps()[:2], changed.steps()[:2]
    rounding = max(_rounding(first), _rounding(changed))
    error = math.sqrt(ROUNDINGS) * rounding
    norms = (one[0].gradient_norm, other[0].gradient_norm)
    # The second step shows the first update. Later steps amplify rounding differences.
    for what, pair, tolerance in (
        ("loss", (one[0].loss, other[0].loss), max(TOLERANCE, rounding)),
        ("gradient norm", norms, max(TOLERANCE, error)),
        ("loss after one update", (one[-1].loss, other[-1].loss), max(UPDATE_TOLERANCE, error)),
    ):
        require(
            math.isclose(*pair, rel_tol=tolerance, abs_tol=tolerance),
            f"{what}: {pair[1]} with {option} = {str(value).lower()}, but {pair[0]} without",
        )


def _rounding(training: TrainingRun) -> float:
    """Return the rounding error of the precision that a training reports; 0 for fp32."""
    started = (event for event in training.events if isinstance(event, TrainingStarted))
    names = (re.match(r"\w*", event.precision.lower()) for event in started)
    return max((ROUNDING.get(name[0], 0.0) for name in names if name), default=0.0)


Pair = tuple[Prompt, Answer]


def _pairs(records: Sequence[Record]) -> list[Pair]:
    return [
        (prompt, to_answer(answer)) for record in records for prompt, answer in exchanges(record)
    ]


def _scores(model: TextModel, pairs: Sequence[Pair]) -> list[tuple[float, ...]]:
    scored = model.score([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
    return [scores.logprobs for scores in scored]


def _mean(scores: Sequence[Sequence[float]]) -> float:
    """Return the mean log-probability over all tokens, in nats."""
    values = [value for tokens in scores for value in tokens]
    return math.fsum(values) / max(1, len(values))


def _last_text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1].text


def _add_date(folder: Path) -> None:
    """Make the chat template of a model folder, if it has one, start with the date."""
    date = "{{ strftime_now('%d %B %Y') }}"
    template = folder / "chat_template.jinja"
    if template.is_file():
        template.write_text(date + template.read_text(encoding="utf-8"), encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(values.get("chat_template"), str):
            values["chat_template"] = date + values["chat_template"]
            config.write_text(json.dumps(values), encoding="utf-8")


@contextmanager
def _time_zone(name: str) -> Iterator[None]:
    """Switch the process to a time zone inside the block."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
