"""A text model that samples several answers, and gives the one with the highest reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.contracts import Generation, Progress
from tunesmith.errors import UsageError
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.records import Prompt
from tunesmith_evidence.answers.without_scores import WithoutScores
from tunesmith_torch.compare.other_model import RewardScorer


@dataclass(frozen=True)
class BestOfNModel(WithoutScores, WrappedModel):
    """Another model, of whose samples the one with the highest reward is the answer."""

    scorer: RewardScorer
    count: int
    temperature: float
    seed: int

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Sample answers, and return the best one for each prompt; of equal ones the first.

        Raises:
            UsageError: the model does not support sampling.
        """
        distinct = [*dict.fromkeys(prompts)]  # equal prompts would have other samples each time
        repeated = [prompt for prompt in distinct for _ in range(self.count)]
        report = progress and (lambda done: progress(done // self.count))
        samples = self.sample(
            repeated,
            max_new_tokens,
            seed=self.seed,
            temperature=self.temperature,
            progress=report,
        )
        rewards = self.scorer.rewards(repeated, [sample.text for sample in samples])
        best = {
            prompt: max(range(start, start + self.count), key=lambda row: rewards[row])
            for prompt, start in zip(distinct, range(0, len(repeated), self.count), strict=True)
        }
        return [samples[best[prompt]] for prompt in prompts]

    @property
    def refusal(self) -> UsageError:
        """The error: the probability that an answer is the best of several is not known."""
        return UsageError(
            "the best of several samples has no log-probability",
            hint="measure it with an evaluator of generated answers, such as win-rate",
        )
