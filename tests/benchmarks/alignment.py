"""Learning from pairs and from rewards, ours and TRL's: what the worker runs for these techniques.

Everybody gets the same token ids: TRL is given words, which its tokenizer makes the same ids of, or
the ids themselves where it takes them. A step of ``preference`` and ``reward`` is a batch of pairs,
and its tokens are those of both rows written out, prompt and answer, for everybody; a step of
``grpo`` is 4 prompts answered 8 times, and its tokens are those of the answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import computes_bf16
from tests.benchmarks.work import SEED, SHAPES, pairs
from tests.benchmarks.worker import RATE, Marks, Spec, lora

SAMPLES, ANSWER = 8, 64
"""Answers to a prompt, and tokens of an answer."""
KL_WEIGHT = 0.04
BETA = 0.1


def reward(prompt: str, answer: str) -> float:
    """What answers are rewarded for: the share of their words whose number is even."""
    words = answer.split()
    return sum(word[-1] in "02468" for word in words) / max(len(words), 1)


def rows(spec: Spec) -> list[Any]:
    """The pairs of a run."""
    return pairs(SHAPES[spec.shape], spec.steps * spec.batch)


def groups(spec: Spec, tokenizer: Any) -> list[Any]:
    """The pairs as token ids, in the order in which they are learned."""
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.optim.schedule import Order
    from tunesmith_torch.prefix.completion_groups import groups_of

    made = groups_of(rows(spec), Template.of(tokenizer))
    order = Order(len(made), spec.batch, 1, SEED, spec.steps)
    return [made[row] for _, members in order.batches(0) for row in members]


def note_pairs(marks: Marks, spec: Spec, learned: Sequence[Any]) -> None:
    """How many tokens each step's pairs have, written out."""
    for at in range(0, len(learned), spec.batch):
        batch = learned[at : at + spec.batch]
        answers = sum(group.answer_tokens for group in batch)
        marks.tokens.append(answers + sum(2 * len(group.prompt) for group in batch))
        marks.trained.append(answers)


# --------------------------------------------------------------------------- tunesmith


@contextmanager
def job(spec: Spec, config: Any, marks: Marks) -> Iterator[Any]:
    """A job in a folder that goes away; its steps are marked."""
    from tunesmith.contracts import Job
    from tunesmith.events import Event, Stepped
    from tunesmith.storage import Checkpoints

    def emit(event: Event) -> None:
        if isinstance(event, Stepped):
            marks.mark()
            marks.losses.append(event.loss)
            if "reward" in event.extras:
                marks.rewards.append(event.extras["reward"])
                marks.tokens.append(round(event.extras["answer_tokens"] * spec.batch * SAMPLES))

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        yield Job(
            config=config,
            model=Path(spec.model),
            train=rows(spec),
            heldout=[],
            out=out,
            seed=SEED,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=emit,
            technique=spec.technique,
        )


def options(spec: Spec) -> dict[str, Any]:
    """What all three have in common."""
    return {
        "learning_rate": RATE,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "batch_size": spec.batch,
        "max_steps": spec.steps,
        "epochs": 1,
        "rank": spec.rank,
        "alpha": spec.alpha,
    }


def our_preference(spec: Spec) -> Marks:
    """Through the technique's offer, as a run does it."""
    from transformers import AutoTokenizer

    from tunesmith_plugins.techniques.preference.offer import PREFERENCE

    marks = Marks()
    config = PREFERENCE.config(loss="dpo", beta=BETA, **options(spec))
    with job(spec, config, marks) as ours:
        PREFERENCE.build(config).train(ours)
    note_pairs(marks, spec, groups(spec, AutoTokenizer.from_pretrained(spec.model)))
    return marks


def our_reward(spec: Spec) -> Marks:
    """Through the toolkit, as a stage of ``rlhf`` does it."""
    from transformers import AutoTokenizer

    from tunesmith_torch.options.preference import RewardOptions
    from tunesmith_torch.rlhf.reward_model import train_reward

    marks = Marks()
    config = RewardOptions(**options(spec))
    with job(spec, config, marks) as ours:
        train_reward(ours)
    note_pairs(marks, spec, groups(spec, AutoTokenizer.from_pretrained(spec.model)))
    return marks


def our_grpo(spec: Spec) -> Marks:
    """The policy loop through the training loop of every technique."""
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.adapter_stack import adapt_policy, load_policy_base
    from tunesmith_torch.options.policy import PolicyLoopOptions
    from tunesmith_torch.prefix.completion_groups import Layout
    from tunesmith_torch.prefix.prefix_check import can_share
    from tunesmith_torch.rlhf.policy_objective import PolicyLoop
    from tunesmith_torch.rlhf.reward_functions import FunctionReward
    from tunesmith_torch.runtime.device import pick_device, pick_precision
    from tunesmith_torch.training.loop import fit

    marks = Marks()
    config = PolicyLoopOptions(
        algorithm="grpo",
        num_generations=SAMPLES,
        max_new_tokens=ANSWER,
        kl_coef=kl_coef(spec),
        max_kl=0.0,  # nobody watches the divergence, so that without a weight nobody computes it
        mask_truncated_completions=False,
        **options(spec),
    )
    device = pick_device("cpu")
    precision = pick_precision(device)
    with job(spec, config, marks) as ours:
        base = load_policy_base(ours.model, device, precision, True)
        adapted = adapt_policy(base, precision, config, weights="lora", start=None, seed=SEED)
        layout = Layout(sharing=can_share(adapted.model))
        prompts = [pair.prompt for pair in rows(spec)]
        template = Template.of(base.tokenizer)
        judge = FunctionReward(reward, "even")
        loop = PolicyLoop(adapted, template, prompts, judge, config, layout)
        fit(replace(ours, train=[]), adapted, loop, seed=SEED)
    return marks


def kl_coef(spec: Spec) -> float:
    """``grpo-kl`` stays near the reference, which costs a pass of its own."""
    return KL_WEIGHT if spec.technique == "grpo-kl" else 0.0


# --------------------------------------------------------------------------- TRL


def trl_settings(spec: Spec, folder: str) -> dict[str, Any]:
    """Its defaults but for what is compared; its best settings where they are asked for."""
    dtype = "bfloat16" if computes_bf16() else "float32"
    best = {"gradient_checkpointing": False, "model_init_kwargs": {"dtype": dtype}}
    return {
        "bf16": computes_bf16(),
        "output_dir": folder,
        "max_steps": spec.steps,
        "per_device_train_batch_size": spec.batch,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": SEED,
        "dataloader_pin_memory": False,
        **(best if spec.who == "trl-fast" else {}),
    }


def clock(marks: Marks) -> Any:
    """Marks the ends of steps."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc] - transformers has no types here
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.mark()

    return Clock()


def words(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of which the tokenizer makes these ids."""
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def trl_preference(spec: Spec) -> Marks:
    """``DPOTrainer``: the reference at every step (its default), or once at the start."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    tokenizer, marks = AutoTokenizer.from_pretrained(spec.model), Marks()
    learned = groups(spec, tokenizer)
    table = [
        {
            "prompt": words(tokenizer, group.prompt),
            "chosen": " " + words(tokenizer, group.answers[0]),
            "rejected": " " + words(tokenizer, group.answers[1]),
        }
        for group in learned
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            beta=BETA,
            precompute_ref_log_probs=spec.who != "trl",
            train_sampling_strategy="sequential",
            **trl_settings(spec, folder),
        )
        torch.manual_seed(SEED)
        trainer = DPOTrainer(
            spec.model,
            args=config,
            train_dataset=Dataset.from_list(table),
            processing_class=tokenizer,
            callbacks=[clock(marks)],
            peft_config=lora(spec),
        )
        for row, group in zip(trainer.train_dataset, learned, strict=True):
            same = [*map(list, (group.prompt, *group.answers))]
            assert [row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]] == same
        trainer.train()
    note_pairs(marks, spec, learned)
    marks.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return marks


def trl_reward(spec: Spec) -> Marks:
    """``RewardTrainer``, with the head trained beside the adapter as its documentation says."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    tokenizer, marks = AutoTokenizer.from_pretrained(spec.model), Marks()
    learned = groups(spec, tokenizer)
    table = [
        {f"{name}_ids": [*group.prompt, *group.answers[i]] for i, name in enumerate(NAMES)}
        for group in learned
    ]
    adapter = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules="all-linear",
        task_type="SEQ_CLS",
        modules_to_save=["score"],
    )
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            center_rewards_coefficient=0.01,
            train_sampling_strategy="sequential",
            **trl_settings(spec, folder),
        )
        torch.manual_seed(SEED)
        trainer = RewardTrainer(
            spec.model,
            args=config,
            train_dataset=Dataset.from_list(table),
            processing_class=tokenizer,
            callbacks=[clock(marks)],
            peft_config=adapter,
        )
        trainer.train()
    note_pairs(marks, spec, learned)
    marks.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return marks


NAMES = ("chosen", "rejected")


def trl_grpo(spec: Spec) -> Marks:
    """``GRPOTrainer`` without vLLM: by default 8 answers at a time, at best all of them."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer, marks = AutoTokenizer.from_pretrained(spec.model), Marks()
    learned = groups(spec, tokenizer)

    def even(prompts: list[str], completions: list[str], **more: Any) -> list[float]:
        return [reward(*both) for both in zip(prompts, completions, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        settings = trl_settings(spec, folder)
        together = spec.batch * SAMPLES if spec.who == "trl-fast" else SAMPLES
        settings["per_device_train_batch_size"] = together
        config = GRPOConfig(
            gradient_accumulation_steps=spec.batch * SAMPLES // together,
            num_generations=SAMPLES,
            max_completion_length=ANSWER,
            beta=kl_coef(spec),
            shuffle_dataset=False,
            **settings,
        )
        torch.manual_seed(SEED)
        trainer = GRPOTrainer(
            spec.model,
            reward_funcs=even,
            args=config,
            train_dataset=Dataset.from_list(
                [{"prompt": words(tokenizer, group.prompt)} for group in learned]
            ),
            processing_class=tokenizer,
            callbacks=[clock(marks)],
            peft_config=lora(spec),
        )
        trainer.train()
    history = trainer.state.log_history
    marks.losses = [entry["loss"] for entry in history if "loss" in entry]
    marks.rewards = [entry["reward"] for entry in history if "reward" in entry]
    lengths = [entry["completions/mean_length"] for entry in history if "reward" in entry]
    marks.tokens = [round(length * spec.batch * SAMPLES) for length in lengths]
    return marks


RUNS = {
    "preference": (our_preference, trl_preference),
    "reward": (our_reward, trl_reward),
    "grpo": (our_grpo, trl_grpo),
    "grpo-kl": (our_grpo, trl_grpo),
}


def run(spec: Spec) -> Marks:
    """Ours or theirs."""
    ours, theirs = RUNS[spec.technique]
    return ours(spec) if spec.who == "tunesmith" else theirs(spec)
