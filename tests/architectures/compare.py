"""Compare runs of this project with the independent computation, and give a verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftConfig
from tests.architectures import product, reference
from tests.architectures.models import Case, save_model
from tests.architectures.product import SEED, STEPS, Outcome, RunFile
from tests.architectures.rows import LENGTHS, RowFiles, make_rows
from tests.architectures.sizes import Sizes
from transformers import AutoTokenizer

TOLERANCE = 1e-5
"""Largest accepted relative difference of a loss."""
NORM_TOLERANCE = 1e-4
"""The same for a gradient norm, a sum over many more rounded numbers."""
ROUNDING_FACTOR = 5.0
"""Accepted multiple of what rounding does to the independent computation, where that is more.

Gradients through recurrent states and choices of experts amplify the rounding of fp32; from the
second step on, AdamW amplifies it again. How much is seen when the last bit of each weight changes.
"""
PERTURBATIONS = 24
"""Largest number of times that the last bits are changed: a choice changes in a few only.

The choice of an expert, or of the tokens that sparse attention reads, may hang on the last bit.
"""
TIE = 1e-4
"""Lead of a token over the second best below which either may be generated."""

FAST_RUNS = (RunFile("lora", "shared", baseline=True),)
"""The runs of the fast lane: several rows with a common prefix, of mixed lengths."""
RUNS = (
    RunFile("full", "shared", baseline=True),
    RunFile("full", "mixed"),
    RunFile("full", "mixed", packing=False),
    RunFile("lora", "shared"),
    RunFile("lora", "mixed"),
    RunFile("lora", "mixed", packing=False),
)


@dataclass(frozen=True)
class Setting:
    """The settings that a result depends on besides the architecture."""

    seed: int = 0
    lengths: tuple[int, ...] = LENGTHS
    sizes: Sizes = field(default_factory=Sizes)
    runs: tuple[RunFile, ...] = RUNS


@dataclass
class Result:
    """The verdict on one architecture, with the numbers behind it."""

    name: str
    model_type: str
    verdict: str = "exact"
    """``exact``, ``refused``, ``wrong``, ``crash`` or ``not built``."""
    reason: str = ""
    trace: str = ""
    parameters: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)
    """For each run: losses, norms and answers of both sides."""
    findings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    tokens_per_second: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def fail(self, verdict: str, reason: str, trace: str = "") -> None:
        """Keep the worst verdict, and its first reason."""
        order = ("exact", "refused", "wrong", "crash")
        if order.index(verdict) > order.index(self.verdict):
            self.verdict, self.reason, self.trace = verdict, reason, trace


class References:
    """The independent numbers of one model, each computed once."""

    def __init__(self, model: Path, rows: dict[str, RowFiles]) -> None:
        self.model, self.rows = model, rows
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self._steps: dict[tuple[object, ...], list[tuple[float, float]]] = {}

    def try_row(self) -> None:
        """Compute a row, to see whether transformers itself can."""
        row = reference.tokenize(self.tokenizer, self.rows["mixed"].train[0])
        reference.mean_loss(reference.load(self.model), [row])

    def steps(
        self,
        technique: str,
        data: str,
        artifact: Path | None,
        *,
        perturbed: int | None = None,
    ) -> list[tuple[float, float]]:
        """Return loss and gradient norm of each step."""
        key = technique, data, perturbed
        if key not in self._steps:
            model = reference.load(self.model)
            if perturbed is not None:
                reference.change_last_bits(model, perturbed)
            if technique == "lora":
                config = PeftConfig.from_pretrained(artifact)
                model = reference.add_adapter(model, config, SEED)
            found: list[tuple[float, float]] = []
            rows = [reference.tokenize(self.tokenizer, row) for row in self.rows[data].train]
            reference.train(model, rows, STEPS, lambda *step: found.append(step))
            self._steps[key] = found
        return self._steps[key]

    def evaluation(self, data: str, artifact: Path | None) -> tuple[float, list[reference.Answer]]:
        """Return the test loss of a model and its greedy answers."""
        model, test = reference.load(self.model, artifact), self.rows[data].test
        rows = [reference.tokenize(self.tokenizer, row) for row in test]
        answers = [reference.answer(model, self.tokenizer, row) for row in test]
        return reference.mean_loss(model, rows), answers


def examine(case: Case, setting: Setting, folder: Path) -> Result:
    """Run the product on the case in every way, and compare each number."""
    started = time.perf_counter()
    result = Result(str(case), case.model_type)
    model = folder / "model"
    rows = {
        name: make_rows(setting.seed, setting.lengths, shared=name == "shared")
        for name in ("mixed", "shared")
    }
    tables = {name: files.write(folder, name) for name, files in rows.items()}
    try:
        result.parameters = save_model(case, setting.sizes, setting.seed, model)
        if is_accepted(result, setting.runs, folder, tables):
            references = References(model, rows)
            references.try_row()
    except Exception as error:
        result.verdict, result.reason = "not built", f"{type(error).__name__}: {error!s:.300}"
        result.trace = product.last_lines(error)
    if result.verdict == "exact":
        for number, settings in enumerate(setting.runs):
            run_file = settings.write(folder, model, tables[settings.data])
            run_and_compare(result, settings, run_file, folder / f"out{number}", references)
    result.seconds = time.perf_counter() - started
    return result


def is_accepted(
    result: Result, runs: Sequence[RunFile], folder: Path, tables: Mapping[str, Any]
) -> bool:
    """Return True if ``tunesmith check`` accepts a run with each technique."""
    for settings in {run.technique: run for run in runs}.values():
        run_file = settings.write(folder, folder / "model", tables[settings.data])
        refusal, crash = product.check(run_file)
        if crash:
            result.fail("crash", f"{settings}: check", crash)
        if refusal:
            result.fail("refused", refusal)
    return result.verdict == "exact"


def run_and_compare(
    result: Result, settings: RunFile, run_file: Path, out: Path, references: References
) -> None:
    """Execute one run and compare what it reports."""
    outcome = product.run(run_file, out)
    if outcome.error:
        stage = "after training began" if outcome.steps else "before training"
        late = f"refused {stage}, after check passed: " if outcome.is_expected else ""
        result.fail("crash", f"{settings}: {late}{outcome.error}", outcome.trace)
        return
    try:
        compare_run(result, settings, outcome, references)
    except Exception as error:
        result.fail("wrong", f"{settings}: reference failed: {error!r:.300}")
        result.trace = product.last_lines(error)


def compare_run(
    result: Result, settings: RunFile, outcome: Outcome, references: References
) -> None:
    """Compare the numbers of one run."""
    expected = references.steps(settings.technique, settings.data, outcome.artifact)
    numbers: dict[str, Any] = {"steps": outcome.steps, "expected_steps": expected}
    result.numbers[str(settings)] = numbers
    result.findings += [n for n in outcome.findings if n not in result.findings]
    result.details[str(settings)] = outcome.details
    result.tokens_per_second[str(settings)] = outcome.tokens_per_second
    for part, name, tolerance in ((0, "loss", TOLERANCE), (1, "norm", NORM_TOLERANCE)):
        difference = max_difference(outcome.steps, expected, part)
        numbers[f"{name}_difference"] = difference
        if difference <= tolerance:
            continue
        enough = difference / ROUNDING_FACTOR
        rounding = rounding_of(settings, outcome, references, part, enough)
        numbers[f"{name}_rounding"] = rounding
        if not difference <= ROUNDING_FACTOR * rounding:
            result.fail("wrong", f"{settings}: {name} of a step differs by {difference:.1e}")
    for name, loss in outcome.losses.items():
        artifact = outcome.artifact if name == "tuned" else None
        expected_loss, answers = references.evaluation(settings.data, artifact)
        difference = abs(loss - expected_loss) / abs(expected_loss)
        unequal = different_answers(outcome.answers[name], answers, references.tokenizer)
        numbers[name] = {
            "loss": loss,
            "expected_loss": expected_loss,
            "difference": difference,
            "answers": len(answers),
            "unequal_answers": unequal,
        }
        if not difference <= TOLERANCE:
            result.fail("wrong", f"{settings}: test loss ({name}) by {difference:.1e}")
        if unequal:
            result.fail("wrong", f"{settings}: {unequal} of {len(answers)} answers ({name})")


def rounding_of(
    settings: RunFile, outcome: Outcome, references: References, part: int, enough: float
) -> float:
    """Return by how much the independent numbers change with the last bit of each weight.

    Changes are tried until one is at least ``enough``.
    """
    args = settings.technique, settings.data, outcome.artifact
    expected = references.steps(*args)
    largest = 0.0
    for seed in range(PERTURBATIONS):
        other = references.steps(*args, perturbed=seed)
        largest = max(largest, max_difference(expected, other, part))
        if largest >= enough:
            break
    return largest


def max_difference(
    steps: Sequence[tuple[float, float]], expected: Sequence[tuple[float, float]], part: int
) -> float:
    """Return the largest relative difference of a number over the steps."""
    return max(
        abs(a[part] - b[part]) / max(abs(b[part]), 1e-12)
        for a, b in zip(steps, expected, strict=True)
    )


def different_answers(
    found: Sequence[str], expected: Sequence[reference.Answer], tokenizer: Any
) -> int:
    """Return the number of answers that differ before any tie."""

    def is_equal(text: str, answer: reference.Answer) -> bool:
        if text == tokenizer.decode(answer.ids, skip_special_tokens=True):
            return True
        tie = next((i for i, lead in enumerate(answer.leads) if lead < TIE), None)
        if tie is None:
            return False
        return text.startswith(tokenizer.decode(answer.ids[:tie], skip_special_tokens=True))

    return sum(not is_equal(a, b) for a, b in zip(found, expected, strict=True))


def to_json(result: Result) -> dict[str, Any]:
    """Return the result as JSON."""
    return asdict(result)
