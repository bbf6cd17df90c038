"""The ``best-of-n`` baseline: sample several base-model answers and keep the best by reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, Finding, Generation, Progress
from tunesmith.errors import UsageError
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.offers import BaselineOffer
from tunesmith.plan import Plan
from tunesmith.records import Prompt
from tunesmith_evidence.answers.generation_only import GenerationOnlyModel
from tunesmith_torch.compare.other_model import RewardOptions, RewardScorer, load_reward_scorer
from tunesmith_torch.compare.training_rewards import find_training_rewards


@dataclass(frozen=True)
class BestOfNModel(GenerationOnlyModel, WrappedModel):
    """A model that samples several answers and returns the one with the highest reward."""

    scorer: RewardScorer
    count: int
    temperature: float
    seed: int

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Sample answers, and return the best one for each prompt. Ties go to the first.

        Raises:
            UsageError: the model does not support sampling.
        """
        distinct = [*dict.fromkeys(prompts)]  # so that equal prompts get the same answer
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
        """The error for scoring existing answers: their probability of being best is unknown."""
        return UsageError(
            "best-of-n cannot compute the log-probability of an answer",
            hint="use an evaluator that compares generated answers, such as win-rate",
        )


NAME = "best-of-n"
TABLE = f"baselines.{NAME}"


class BestOfNOptions(RewardOptions):
    """Options of ``best-of-n``. It is used by default if `reward` or `plugin` is set."""

    n: int = Field(4, ge=2, le=64, description="Number of answers sampled per prompt.")
    temperature: float = Field(1.0, gt=0, le=10, description="Sampling temperature.")

    @property
    def has_reward(self) -> bool:
        """True if the options set a reward with `reward` or `plugin`."""
        return (self.reward or self.plugin) is not None


@dataclass(frozen=True)
class BestOfN:
    """Samples answers from the base model and keeps the one with the highest reward."""

    options: BestOfNOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the base model with best-of-n sampling, or nothing if no reward is set."""
        if not self.options.has_reward:
            return
        from tunesmith_evidence.prompting.task_prompt import read_task

        scorer = load_reward_scorer(self.options, None, TABLE)
        assert scorer is not None
        options, base = self.options, read_task(task).prompted(describe=False)
        model = BestOfNModel(base, scorer, options.n, options.temperature, task.seed)
        yield BaselineVariant(name=f"n={options.n}", model=model)


BEST_OF_N = BaselineOffer(
    name=NAME,
    summary="the best of several sampled base-model answers, by reward",
    config=BestOfNOptions,
    build=BestOfN,
    solution="prompt",
    cost=140,
    needs_model=True,
    needs=("torch>=2.11", "transformers>=5.17"),
    can_score=False,
    is_configured=lambda options: options.has_reward,
)


def review(plan: Plan) -> Iterator[Finding]:
    """Yield an error if ``best-of-n`` is listed without a reward, or a note that recommends it.

    The note is for runs that train a policy with a reward.
    """
    use = plan.baseline_options.use
    configs = (baseline.config for baseline in plan.baselines if baseline.offer.name == NAME)
    config = next(configs, None)
    if isinstance(config, BestOfNOptions) and config.has_reward:
        return
    if use is not None:
        if NAME in use:
            message = "best-of-n needs a reward model or function to choose the best answer"
            hint = "set `reward` or `plugin` in this table"
            yield Finding(level="error", where=TABLE, message=message, hint=hint)
        return
    rewards = find_training_rewards(plan.technique.config)
    if rewards is None:
        return
    function = next(iter(rewards.functions), None)
    named = f'"{function}"' if function else "the folder of a trained reward model"
    key = "reward" if function is None or ".py:" in function else "plugin"
    yield Finding(
        level="info",
        where="baselines",
        message="the policy is not compared with the `best-of-n` baseline, which samples four "
        "answers, keeps the one with the highest reward, and needs no training",
        hint=f"add [{TABLE}] with {key} = {named}",
    )
