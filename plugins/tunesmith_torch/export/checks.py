"""The checks of an export. Most of them run in the engine, and the first failure ends the export.

Shapes: N scored positions, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.contracts import Generation
from tunesmith.errors import GateError, IntegrityError
from tunesmith.text import format_bytes, format_count
from tunesmith_evidence.number_text import format_deviation
from tunesmith_torch.export.contract import (
    AdapterExporter,
    Engine,
    Exporter,
    NotVerifiedError,
    ServedExporter,
)
from tunesmith_torch.export.reference import (
    MAX_ANSWER_TOKENS,
    Reference,
    RenderedPrompt,
    ScoredRow,
    can_exceed_limit,
)

__all__ = ["ExportChecks", "require"]

MAX_KL = {"rounded": 0.5, "exact": 1e-3}
"""Maximum mean KL divergence in nats per token, if the export rounds weights or keeps them
exact."""
MAX_LONG_NATS = 5e-3
"""Maximum difference of a log-probability in a long text, unless the tolerance is larger."""
MAX_LONGER_KL, MIN_KL = 4.0, 1e-6
"""Maximum ratio of the KL in long texts to that in short ones, and the KL in nats to ignore."""
MAX_MERGE_NATS = 1e-4
"""Maximum difference of a log-probability between the merged and the trained model, in nats."""


@dataclass
class ExportChecks:
    """Runs checks and collects their results for the certificate."""

    passed: dict[str, str] = field(default_factory=dict)
    """The result of each check, as text, by the check's name."""
    not_verified: list[str] = field(default_factory=list)
    """Names of the checks that were inconclusive; ``passed`` has the reasons."""
    measured: dict[str, float] = field(default_factory=dict)
    """Measured numbers by name, such as the largest difference of a log-probability in nats."""

    def check(self, name: str, function: Callable[[], str]) -> None:
        """Run a check, which returns its result as text.

        Raises:
            GateError: the check fails; the message names it.
        """
        try:
            self.passed[name] = function()
        except NotVerifiedError as reason:
            self.passed[name] = f"not verified: {reason}"
            self.not_verified.append(name)
        except (AssertionError, IntegrityError) as error:
            raise GateError(
                f"export, {name}: {error}",
                hint="nothing was written; try another format or exporter for this model",
            ) from error


def require(condition: bool, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def check_merge(checks: ExportChecks, reference: Reference, merged: Sequence[ScoredRow]) -> None:
    """Compare the merged model folder, read back, with the trained model."""

    def compare() -> str:
        nats = max(
            _largest_difference(a.logprobs, b.logprobs, a.answer_ids)
            for a, b in zip(reference.rows, merged, strict=True)
        )
        require(
            nats <= MAX_MERGE_NATS,
            f"log-probabilities of the merged model differ by {format_deviation(nats)} nats "
            "from the trained model's; at most "
            f"{format_deviation(MAX_MERGE_NATS)} are allowed",
        )
        return f"{format_deviation(nats)} nats"

    checks.check("merge", compare)


def check_files(
    checks: ExportChecks, exporter: Exporter | AdapterExporter, out: Path, model: Path
) -> None:
    """Compare the exported files with the model folder, and run the exporter's own checks."""
    facts: dict[str, Any] = {}

    def read() -> str:
        facts.update(exporter.facts(out))
        files = [file for file in out.rglob("*") if file.is_file()]
        size = format_bytes(sum(file.stat().st_size for file in files))
        return f"{format_count(len(files), 'file')}, {size}"

    checks.check("files", read)
    for name, function in _fact_checks(facts, model):
        checks.check(name, function)
    if isinstance(exporter, ServedExporter):
        for name, function in exporter.own_checks(out):
            checks.check(name, function)


def _fact_checks(facts: dict[str, Any], model: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    config = _read(model / "config.json")
    text_config = config.get("text_config", config)
    generation = _read(model / "generation_config.json")

    def check_rope() -> str:
        expected, found = text_config.get("rope_theta"), facts.get("rope_theta")
        if expected is None or found is None:
            return "not used"
        require(
            math.isclose(expected, found, rel_tol=1e-6),
            f"rope_theta is {found}, expected {expected}",
        )
        return f"{found:g}"

    def check_tie() -> str:
        expected = bool(text_config.get("tie_word_embeddings", config.get("tie_word_embeddings")))
        found = facts.get("tied", expected)
        require(
            found == expected,
            f"embeddings and output head are {_tied(found)}, but {_tied(expected)} in the trained "
            "model",
        )
        return _tied(found)

    def check_ends() -> str:
        ids = generation.get("eos_token_id")
        expected = {*(ids if isinstance(ids, list) else [ids])} - {None}
        missing = expected - set(facts["end_ids"])
        require(not missing, f"the engine does not stop at the token ids {sorted(missing)}")
        return f"ids {sorted(expected)}"

    yield "rope", check_rope
    yield "tied weights", check_tie
    yield "end tokens", check_ends
    if facts.get("tokens") is not None:
        yield "added tokens", lambda: _check_added_tokens(facts["tokens"], model)


def _check_added_tokens(found: dict[str, int], model: Path) -> str:
    tokenizer = _read(model / "tokenizer.json")
    expected = {str(t["content"]): int(t["id"]) for t in tokenizer.get("added_tokens", ())}
    for text, number in expected.items():
        require(found.get(text) == number, f"{text!r} does not have the token id {number}")
    return format_count(len(expected), "token")


def check_engine(
    checks: ExportChecks, engine: Engine, reference: Reference, tolerance: float | None
) -> None:
    """Compare the engine's prompts, tokens, answers and probabilities with the trained model's."""
    for kind in ("prompt", "system prompt"):
        chosen = [rendered for rendered in reference.prompts if rendered.kind == kind]
        if chosen:
            check = partial(_check_texts, engine, chosen, reference.bos)
            checks.check(f"rendered {kind}", check)
    checks.check("BOS", lambda: _check_bos(engine, reference))
    checks.check("token ids", lambda: _check_ids(engine, reference))
    checks.check("stop", lambda: _check_stops(engine, reference))
    checks.check("log-probabilities", lambda: _check_logprobs(checks, engine, reference, tolerance))
    if reference.limits:
        checks.check("long texts", lambda: _check_long_texts(checks, engine, reference, tolerance))


def _check_texts(engine: Engine, prompts: list[RenderedPrompt], bos: str) -> str:
    for rendered in prompts:
        # Some engines leave the BOS to their tokenizer; a later check compares the token ids.
        expected = rendered.text.removeprefix(bos)
        found = engine.render(rendered.prompt).removeprefix(bos)
        require(found == expected, f"the engine renders a prompt as {_difference(expected, found)}")
    return f"{format_count(len(prompts), 'prompt')}, byte for byte"


def _check_bos(engine: Engine, reference: Reference) -> str:
    if reference.bos_id is None:
        return "not used"
    for rendered in reference.prompts:
        ids = list(engine.tokenize(engine.render(rendered.prompt)))
        leading = [_count_leading(row, reference.bos_id) for row in (ids, rendered.ids)]
        count = format_count(leading[0], "BOS token")
        what = f"the engine adds {count}, but training used {leading[1]}"
        require(leading[0] == leading[1], what)
    return f"{leading[1]} at the start"


def _count_leading(ids: list[int], token: int) -> int:
    return next((n for n, i in enumerate(ids) if i != token), len(ids))


def _check_ids(engine: Engine, reference: Reference) -> str:
    for rendered in reference.prompts:
        ids = list(engine.tokenize(engine.render(rendered.prompt)))
        if ids != rendered.ids:
            at = next(
                (n for n, (a, b) in enumerate(zip(ids, rendered.ids, strict=False)) if a != b),
                min(len(ids), len(rendered.ids)),
            )
            raise AssertionError(
                f"token {at} of a prompt is {ids[at : at + 1]}, expected "
                f"{rendered.ids[at : at + 1]}"
            )
    return format_count(len(reference.prompts), "prompt")


def _check_stops(engine: Engine, reference: Reference) -> str:
    ended = [(prompt, answer) for prompt, answer in reference.answers if _is_ended(answer)]
    if not ended:
        raise NotVerifiedError(f"no answer ended within {MAX_ANSWER_TOKENS} tokens")
    answers = engine.generate([prompt for prompt, _ in ended], MAX_ANSWER_TOKENS)
    alike = 0
    for (_, expected), found in zip(ended, answers, strict=True):
        length = len(expected.ids) - 1
        if found.ids[:length] == expected.ids[:length]:
            alike += 1
            require(
                _is_ended(found) and len(found.ids) <= length + 1,
                f"the engine continues after {format_count(length, 'token')}, where the trained "
                "model stops",
            )
        elif _is_ended(found) and found.ids == expected.ids[: len(found.ids)]:
            count = format_count(len(found.ids), "token")
            raise AssertionError(
                f"the engine stops after {count}, where the trained model continues"
            )
    require(
        any(map(_is_ended, answers)),
        f"none of the engine's answers ends within {MAX_ANSWER_TOKENS} tokens, but {len(ended)} of "
        "the trained model's do",
    )
    return f"{alike} of {len(ended)} answers end at the same token" + (
        "" if alike == len(ended) else ", the others differ in their text"
    )


def _is_ended(answer: Generation) -> bool:
    return answer.finish_reason == "stop"


def _check_logprobs(
    checks: ExportChecks, engine: Engine, reference: Reference, tolerance: float | None
) -> str:
    nats, divergences = _compare(engine, reference.rows)
    kl = max(float(np.concatenate(divergences).mean()), 0.0)  # rounding may leave it below 0
    checks.measured.update(max_logprob_difference_nats=nats, mean_kl_nats=kl)
    found = _judge(nats, kl, tolerance)
    tokens = format_count(sum(map(len, divergences)), "token")
    return f"{found}, {tokens}"


def _check_long_texts(
    checks: ExportChecks, engine: Engine, reference: Reference, tolerance: float | None
) -> str:
    """Compare a text that is longer than the model's attention windows.

    The check is inconclusive if a window is too large to exceed. Rounding errors add up in long
    texts, so larger differences are allowed here. If the KL is much larger than in short texts,
    that may be rounding or an error of the engine, so the check is inconclusive too.
    """
    row = reference.long_row
    if row is None:
        found, text = "", "short texts"
    else:
        nats, (divergence_N,) = _compare(engine, [row])
        kl = max(float(divergence_N.mean()), 0.0)
        found = _judge(nats, kl, None if tolerance is None else max(tolerance, MAX_LONG_NATS))
        text = f"texts of {format_count(len(row.ids), 'token')}"
        short = checks.measured["mean_kl_nats"]
        if kl > MAX_LONGER_KL * short + MIN_KL:
            raise NotVerifiedError(
                f"KL of {format_deviation(kl)} nats in {text}, but {format_deviation(short)} in "
                "short ones: the engine may compute long texts differently"
            )
    left = [limit.what for limit in reference.limits if row is None or not can_exceed_limit(limit)]
    if left:
        raise NotVerifiedError(
            f"the model uses {', '.join(left)}, and only {text} were compared, so answers to "
            "longer prompts may differ; test the export on a long prompt before you use it"
        )
    return f"{found}, in {text}"


def _compare(engine: Engine, rows: Sequence[ScoredRow]) -> tuple[float, list[Any]]:
    """Return the largest difference of a log-probability, and each row's KL per token, [N]."""
    nats, divergences = 0.0, []
    for row in rows:
        found_NV = np.asarray(engine.logprobs(row.ids, row.first))[:, : row.logprobs.shape[1]]
        true_NV = row.logprobs.astype(np.float64)
        nats = max(nats, _largest_difference(true_NV, found_NV, row.answer_ids))
        divergences.append((np.exp(true_NV) * (true_NV - found_NV)).sum(-1))
    return nats, divergences


def _judge(nats: float, kl: float, tolerance: float | None) -> str:
    """Check a log-probability difference and a KL against their limits; return both as text."""
    if tolerance is not None:
        require(
            nats <= tolerance,
            f"the largest difference from the trained model is {format_deviation(nats)} nats; "
            f"at most {format_deviation(tolerance)} are allowed",
        )
    limit = MAX_KL["rounded" if tolerance is None else "exact"]
    found, allowed = format_deviation(kl), format_deviation(limit)
    require(kl <= limit, f"the mean KL divergence is {found} nats; at most {allowed} is allowed")
    return f"{format_deviation(nats)} nats at most, KL {found} nats"


def _largest_difference(true_NV: Any, found_NV: Any, answer_ids: list[int]) -> float:
    positions = np.arange(len(answer_ids))
    return float(np.abs(true_NV[positions, answer_ids] - found_NV[positions, answer_ids]).max())


def _difference(expected: str, found: str) -> str:
    shorter = min(len(expected), len(found))
    at = next((n for n in range(shorter) if expected[n] != found[n]), shorter)
    return f"{found[at : at + 30]!r}, expected {expected[at : at + 30]!r}, at character {at}"


def _tied(tied: bool) -> str:
    return "tied" if tied else "not tied"


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
