"""A policy in training, by TRL or by the toolkit's own loop, and the events of its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped
from tunesmith.events import Event
from tunesmith.options import from_table
from tunesmith.records import Message, Prompt
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.sequences import GeneratedSequence
from tunesmith_torch.models.adapter_stack import adapt_model, adapt_over_merged
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.prefix.completion_groups import GroupLayout
from tunesmith_torch.rlhf.monitor import GoldReward, PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.rlhf.rollout import RolloutGenerator
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training.loop import run_training_loop
from tunesmith_trl.options import GrpoOptions, RlooOptions, TrlOptions
from tunesmith_trl.rewards import PromptTokenizer
from tunesmith_trl.trainer import run_trl_training

CPU = torch.device("cpu")
FP32 = pick_precision(CPU, "fp32")
PROMPTS: list[Prompt] = [(Message("user", f"{'so ' * n}{n}?"),) for n in range(4)]
QUICK = {
    "epochs": 3,
    "batch_size": 4,
    "generation__num_generations": 4,
    "generation__max_new_tokens": 12,
    "learning_rate": 1e-2,
    "precision": "fp32",
    "adapter__rank": 4,
    "micro_batch_tokens": 200,
    "checkpoints__every": 1,
    "monitor__every": 2,
    "loss__kl_coef": 0.5,
}


def save_model_with_endings(folder: Path) -> Path:
    """Save a tiny model with unequal token probabilities, whose completions sometimes end."""
    base = load_model(save_tiny_model(folder), CPU, FP32, packing=False)
    with torch.no_grad():
        weight_VD = base.model.get_input_embeddings().weight.mul_(10)
        ids_BT = torch.tensor(Template.from_tokenizer(base.tokenizer).encode_prompts(PROMPTS[:1]))
        hidden_D = base.model.model(ids_BT).last_hidden_state[0].mean(0)
        weight_VD[base.tokenizer.eos_token_id] = 3 * hidden_D / (hidden_D @ hidden_D)
    base.model.save_pretrained(folder)
    return folder


class LetterReward:
    """A reward that differs between most completions."""

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [letter_reward("", text) for text in completions]


def letter_reward(prompt: str, completion: str) -> float:
    """The same as a reward function of a user."""
    return sum(map(ord, completion)) % 11 / 10 - 0.01 * len(completion)


def trl_options(algorithm: str = "grpo", **changes: Any) -> TrlOptions:
    """Build options of a technique from keys such as ``adapter__rank=4``."""
    cls: type[TrlOptions] = GrpoOptions if algorithm == "grpo" else RlooOptions
    table: dict[str, Any] = {"rewards": [{"plugin": "policy_run:letter_reward"}]}
    for key, value in changes.items():
        *outer, last = key.split("__")
        inner = table
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return from_table(cls, table)


def options(algorithm: str = "grpo", **changes: Any) -> PolicyOptions:
    """Build quick options of the toolkit, as the techniques hand them on."""
    return trl_options(algorithm, **{**QUICK, **changes}).policy_options


class RecordingRolloutGenerator(RolloutGenerator):
    """Records the completions that it decodes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.decoded: list[GeneratedSequence] = []

    def decode(self, completion: GeneratedSequence) -> str:
        self.decoded.append(completion)
        return super().decode(completion)


class ReplayedGeneration:
    """In place of ``generate``: given completions, with this model's log-probabilities."""

    def __init__(self, completions: Sequence[GeneratedSequence]) -> None:
        self.remaining = list(completions)

    @torch.no_grad()
    def __call__(
        self, model: Any, prompts: Sequence[list[int]], **_: Any
    ) -> list[GeneratedSequence]:
        completions = [self.remaining.pop(0) for _ in prompts]
        return [
            replace(completion, logprobs=tuple(self._logprobs(model, ids, completion.ids)))
            for ids, completion in zip(prompts, completions, strict=True)
        ]

    def _logprobs(self, model: Any, prompt: list[int], completion: tuple[int, ...]) -> list[float]:
        ids_1T = torch.tensor([[*prompt, *completion]])
        logp_TV = model(input_ids=ids_1T).logits[0].float().log_softmax(-1)
        completion_TV = logp_TV[len(prompt) - 1 : -1]
        return [float(row_V[token]) for row_V, token in zip(completion_TV, completion, strict=True)]


class PolicyRun:
    """A policy to train, and the events of its training."""

    def __init__(
        self,
        model: Path,
        out: Path,
        config: PolicyOptions,
        *,
        initial_adapter: Path | None = None,
        prompts: Sequence[Prompt] = PROMPTS,
        test: Sequence[Prompt] = (),
    ) -> None:
        self.events: list[Event] = []
        self.stop: Callable[[Event], bool] = lambda event: False
        base = load_model(model, CPU, FP32, packing=config.packing)
        self.template = Template.from_tokenizer(base.tokenizer)
        self.adapted: AdaptedModel
        if initial_adapter is None:
            self.adapted = adapt_model(base, FP32, config.adaptation, initial_model=None, seed=3)
        else:
            initial_model = InitialModel(initial_adapter, "adapter")
            self.adapted = adapt_over_merged(
                base, FP32, config.adapter, initial_model=initial_model, seed=3
            )
        self.prompts, layout, self.reward = prompts, GroupLayout(config.packing), LetterReward()
        self.objective = PolicyObjective(
            self.adapted, self.template, prompts, self.reward, config, layout
        )
        self.rollout_generator = RecordingRolloutGenerator(
            self.adapted, self.template, prompts, self.reward, config
        )
        self.objective.rollout_generator = self.rollout_generator
        self.job: Job[Any] = Job(
            config=config,
            model=model,
            train=(),
            validation=(),
            out=out,
            seed=3,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=self.emit,
            technique="trl-grpo",
        )
        out.mkdir(parents=True, exist_ok=True)
        self.monitor = PolicyMonitor(
            self.job, self.objective, self.reward, GoldReward(test, [], None), config
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if self.stop(event):
            raise RunStopped("enough")

    def train(self) -> PolicyRun:
        """Train with TRL."""
        tokenizer = PromptTokenizer(self.template, self.prompts)
        run_trl_training(self.job, self.objective, tokenizer, self.monitor)
        return self

    def train_with_own_loop(self) -> PolicyRun:
        """Train with the toolkit's loop."""
        run_training_loop(self.job, self.adapted, self.objective, seed=3, monitor=self.monitor)
        return self

    def events_of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: x.detach().clone() for name, x in self.adapted.named_trainable_parameters}


def max_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b) and a
    return max(float((a[name] - b[name]).abs().max()) for name in a)
