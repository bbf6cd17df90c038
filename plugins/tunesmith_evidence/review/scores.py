"""Score how confident a model is about its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.contracts import Generation, TextModel, require_sampling
from tunesmith.records import Prompt

__all__ = ["NEVER", "score_answers", "score_logprob"]

NEVER = -1e9
"""Score of an answer that is never automated, because it was cut off. All others are higher."""
MIN_DOUBT = 1e-5
"""Log-probabilities closer to 0 than this differ mostly by rounding errors."""


def score_answers(
    model: TextModel, prompts: Sequence[Prompt], answers: Sequence[Generation]
) -> list[float]:
    """Return a score for each answer that grows with the model's confidence.

    The score is the confidence that the model states or, without one, the log-odds of the answer's
    tokens. It depends only on the prompt and its answer.
    """
    scores = [NEVER if a.finish_reason == "length" else a.confidence for a in answers]
    for has_ids in (True, False):
        rows = [i for i, a in enumerate(answers) if scores[i] is None and bool(a.ids) is has_ids]
        asked, given = [prompts[i] for i in rows], [answers[i] for i in rows]
        if has_ids and rows:
            found = require_sampling(model).score_generations(asked, given)
        else:
            found = model.score(asked, [answer.text for answer in given]) if rows else []
        for i, tokens in zip(rows, found, strict=True):
            scores[i] = score_logprob(math.fsum(tokens.logprobs))
    return [score for score in scores if score is not None]


def score_logprob(logprob: float) -> float:
    """Return the log-odds of an answer with this log-probability, in nats."""
    doubt = max(-logprob, MIN_DOUBT)
    return -doubt - math.log(-math.expm1(-doubt))
