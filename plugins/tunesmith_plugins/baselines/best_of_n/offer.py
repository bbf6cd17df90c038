"""Offer and baseline of ``best-of-n``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from tunesmith.contracts import Baseline, BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith_torch.compare.other_model import RewardOptions, load_scorer

NAME = "best-of-n"
TABLE = f"baselines.{NAME}"


class BestOfNOptions(RewardOptions):
    """Options of ``best-of-n``. It is used by default if `reward` or `plugin` is set."""

    n: int = Field(4, ge=2, le=64, description="Answers that are sampled for each prompt.")
    temperature: float = Field(1.0, gt=0, le=10, description="Sampling temperature.")

    @property
    def has_reward(self) -> bool:
        """True if a reward is named."""
        return (self.reward or self.plugin) is not None


@dataclass(frozen=True)
class BestOfN:
    """Samples answers of the untouched model, and keeps the one with the highest reward."""

    options: BestOfNOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the untouched model with the system prompt; nothing without a reward."""
        if not self.options.has_reward:
            return
        from tunesmith_evidence.prompting.task_prompt import read_task
        from tunesmith_plugins.baselines.best_of_n.model import BestOfNModel

        scorer = load_scorer(self.options, None, TABLE)
        assert scorer is not None
        options, base = self.options, read_task(task).prompted(describe=False)
        model = BestOfNModel(base, scorer, options.n, options.temperature, task.seed)
        yield BaselineVariant(name=f"n={options.n}", model=model)


def build(options: BestOfNOptions) -> Baseline:
    """Build the baseline."""
    return BestOfN(options)


BEST_OF_N = BaselineOffer(
    name=NAME,
    summary="the sampled answer of the untouched model with the highest reward",
    config=BestOfNOptions,
    build=build,
    solution="prompt",
    cost=140,
    needs_model=True,
    needs=("torch>=2.11", "transformers>=5.17"),
    can_score=False,
    is_configured=lambda options: options.has_reward,
)
