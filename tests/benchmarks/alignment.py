"""Train on pairs and on rewards with tunesmith and with TRL, for the worker.

Both get the same token ids: TRL gets words, of which its tokenizer makes the same ids, or the ids
themselves where it accepts them. A step of ``preference`` and ``reward`` is a batch of pairs. Its
tokens are those of prompt and completion for both completions, even if the prompt is computed
once. A step of ``grpo`` is 4 prompts with 8 completions each, and its tokens are those of the
completions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import has_bf16_arithmetic
from tests.benchmarks.work import SEED, SHAPES, make_pairs
from tests.benchmarks.worker import LEARNING_RATE, StepTimes, WorkerSpec, lora_config

NUM_GENERATIONS, MAX_NEW_TOKENS = 8, 64
"""Completions per prompt, and tokens of a completion."""
KL_COEF = 0.04
BETA = 0.1


def even_word_share(prompt: str, completion: str) -> float:
    """Return the reward of a completion: the share of its words whose number is even."""
    words = completion.split()
    return sum(word[-1] in "02468" for word in words) / max(len(words), 1)


def make_rows(spec: WorkerSpec) -> list[Any]:
    """Return the pairs of a run."""
    return make_pairs(SHAPES[spec.shape], spec.steps * spec.batch)


def pair_groups(spec: WorkerSpec, tokenizer: Any) -> list[Any]:
    """Return the pairs as token ids, in the order of training."""
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.optim.schedule import BatchOrder
    from tunesmith_torch.prefix.completion_groups import tokenize_pairs

    groups = tokenize_pairs(make_rows(spec), Template.from_tokenizer(tokenizer))
    order = BatchOrder(len(groups), spec.batch, 1, SEED, spec.steps)
    return [groups[row] for _, members in order.batches(0) for row in members]


def record_pair_tokens(times: StepTimes, spec: WorkerSpec, groups: Sequence[Any]) -> None:
    """Record the tokens of each step's pairs, with the prompt counted for both completions."""
    for start in range(0, len(groups), spec.batch):
        batch = groups[start : start + spec.batch]
        completions = sum(group.completion_tokens for group in batch)
        times.tokens.append(completions + sum(2 * len(group.prompt) for group in batch))
        times.trained.append(completions)


# --------------------------------------------------------------------------- tunesmith


@contextmanager
def training_job(spec: WorkerSpec, config: Any, times: StepTimes) -> Iterator[Any]:
    """Yield a job in a temporary folder that records the times of its steps."""
    from tunesmith.contracts import Job
    from tunesmith.events import Event, StepFinished
    from tunesmith.storage import Checkpoints

    def emit(event: Event) -> None:
        if isinstance(event, StepFinished):
            times.mark_step()
            times.losses.append(event.loss)
            if "reward" in event.metrics:
                times.rewards.append(event.metrics["reward"])
                times.tokens.append(
                    round(event.metrics["completion_length"] * spec.batch * NUM_GENERATIONS)
                )

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        yield Job(
            config=config,
            model=Path(spec.model),
            train=make_rows(spec),
            validation=[],
            out=out,
            seed=SEED,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=emit,
            technique=spec.technique,
        )


def common_options(spec: WorkerSpec) -> dict[str, Any]:
    """Return the options that all three trainings share."""
    return {
        "learning_rate": LEARNING_RATE,
        "schedule": {"type": "constant", "warmup_ratio": 0.0},
        "batch_size": spec.batch,
        "max_steps": spec.steps,
        "epochs": 1,
        "adapter": {"rank": spec.rank, "alpha": spec.alpha},
    }


def tunesmith_preference(spec: WorkerSpec) -> StepTimes:
    """Train through the technique's offer, as a run does."""
    from transformers import AutoTokenizer

    from tunesmith.options import from_table
    from tunesmith_plugins.techniques.preference.offer import PREFERENCE

    times = StepTimes()
    loss = {"type": "dpo", "beta": BETA}
    config = from_table(PREFERENCE.config, {**common_options(spec), "loss": loss})
    with training_job(spec, config, times) as job:
        PREFERENCE.build(config).train(job)
    record_pair_tokens(times, spec, pair_groups(spec, AutoTokenizer.from_pretrained(spec.model)))
    return times


def tunesmith_reward(spec: WorkerSpec) -> StepTimes:
    """Train through the toolkit, as a stage of ``rlhf`` does."""
    from transformers import AutoTokenizer

    from tunesmith.options import from_table
    from tunesmith_plugins.techniques.rlhf.options import RewardStage
    from tunesmith_plugins.techniques.rlhf.reward_task import RewardTask
    from tunesmith_torch.training.trainer import train

    times = StepTimes()
    config = from_table(RewardStage, common_options(spec))
    with training_job(spec, config, times) as job:
        train(job, RewardTask())
    record_pair_tokens(times, spec, pair_groups(spec, AutoTokenizer.from_pretrained(spec.model)))
    return times


def tunesmith_grpo(spec: WorkerSpec) -> StepTimes:
    """Train a policy in the training loop of all techniques."""
    from tunesmith.options import from_table
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.adapter_stack import adapt_model
    from tunesmith_torch.models.open_base import load_model
    from tunesmith_torch.options.policy import PolicyOptions
    from tunesmith_torch.prefix.completion_groups import GroupLayout
    from tunesmith_torch.prefix.prefix_check import can_share_prefix
    from tunesmith_torch.rlhf.policy_objective import PolicyObjective
    from tunesmith_torch.rlhf.reward_functions import FunctionReward
    from tunesmith_torch.runtime.device import pick_device, pick_precision
    from tunesmith_torch.training.loop import run_training_loop

    times = StepTimes()
    table = {
        **common_options(spec),
        "algorithm": "grpo",
        "generation": {"num_generations": NUM_GENERATIONS, "max_new_tokens": MAX_NEW_TOKENS},
        "loss": {"kl_coef": kl_coef(spec), "mask_truncated_completions": False},
        # Without a KL limit, the KL is not computed if its coefficient is 0.
        "monitor": {"max_kl": 0.0},
    }
    config = from_table(PolicyOptions, table)
    device = pick_device("cpu")
    precision = pick_precision(device)
    with training_job(spec, config, times) as job:
        base = load_model(job.model, device, precision, packing=True)
        adapted = adapt_model(base, precision, config.adaptation, initial_model=None, seed=SEED)
        sharing = can_share_prefix(adapted.model, config.max_length)
        layout = GroupLayout(share_prompts=sharing)
        prompts = [pair.prompt for pair in make_rows(spec)]
        template = Template.from_tokenizer(base.tokenizer)
        reward_function = FunctionReward(even_word_share, "even")
        objective = PolicyObjective(adapted, template, prompts, reward_function, config, layout)
        run_training_loop(replace(job, train=[]), adapted, objective, seed=SEED)
    return times


def kl_coef(spec: WorkerSpec) -> float:
    """Return the KL coefficient; that of ``grpo-kl`` costs a forward pass of the reference."""
    return KL_COEF if spec.technique == "grpo-kl" else 0.0


# --------------------------------------------------------------------------- TRL


def trl_settings(spec: WorkerSpec, folder: str) -> dict[str, Any]:
    """Return TRL's defaults except for the settings that both share, or its fastest settings."""
    dtype = "bfloat16" if has_bf16_arithmetic() else "float32"
    best = {"gradient_checkpointing": False, "model_init_kwargs": {"dtype": dtype}}
    return {
        "bf16": has_bf16_arithmetic(),
        "output_dir": folder,
        "max_steps": spec.steps,
        "per_device_train_batch_size": spec.batch,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": SEED,
        "dataloader_pin_memory": False,
        **(best if spec.trainer == "trl-fast" else {}),
    }


def step_clock(times: StepTimes) -> Any:
    """Return a TRL callback that records the end of every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc] - transformers has no types here
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.mark_step()

    return Clock()


def ids_to_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return a text of which the tokenizer makes these ids."""
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def trl_preference(spec: WorkerSpec) -> StepTimes:
    """Train with ``DPOTrainer``; the reference runs at every step (its default) or at the start."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    tokenizer, times = AutoTokenizer.from_pretrained(spec.model), StepTimes()
    groups = pair_groups(spec, tokenizer)
    table = [
        {
            "prompt": ids_to_text(tokenizer, group.prompt),
            "chosen": " " + ids_to_text(tokenizer, group.completions[0]),
            "rejected": " " + ids_to_text(tokenizer, group.completions[1]),
        }
        for group in groups
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            beta=BETA,
            precompute_ref_log_probs=spec.trainer != "trl",
            train_sampling_strategy="sequential",
            **trl_settings(spec, folder),
        )
        torch.manual_seed(SEED)
        trainer = DPOTrainer(
            spec.model,
            args=config,
            train_dataset=Dataset.from_list(table),
            processing_class=tokenizer,
            callbacks=[step_clock(times)],
            peft_config=lora_config(spec),
        )
        for row, group in zip(trainer.train_dataset, groups, strict=True):
            same = [*map(list, (group.prompt, *group.completions))]
            assert [row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]] == same
        trainer.train()
    record_pair_tokens(times, spec, groups)
    times.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return times


def trl_reward(spec: WorkerSpec) -> StepTimes:
    """Train with ``RewardTrainer``: the adapter and the head, as its documentation recommends."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    tokenizer, times = AutoTokenizer.from_pretrained(spec.model), StepTimes()
    groups = pair_groups(spec, tokenizer)
    table = [
        {f"{name}_ids": [*group.prompt, *group.completions[i]] for i, name in enumerate(SIDES)}
        for group in groups
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
            callbacks=[step_clock(times)],
            peft_config=adapter,
        )
        trainer.train()
    record_pair_tokens(times, spec, groups)
    times.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return times


SIDES = ("chosen", "rejected")


def trl_grpo(spec: WorkerSpec) -> StepTimes:
    """Train with ``GRPOTrainer`` without vLLM: 8 completions per pass by default, at best all."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer, times = AutoTokenizer.from_pretrained(spec.model), StepTimes()
    groups = pair_groups(spec, tokenizer)

    def even(prompts: list[str], completions: list[str], **more: Any) -> list[float]:
        return [even_word_share(*both) for both in zip(prompts, completions, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        settings = trl_settings(spec, folder)
        batch_size = spec.batch * NUM_GENERATIONS if spec.trainer == "trl-fast" else NUM_GENERATIONS
        settings["per_device_train_batch_size"] = batch_size
        config = GRPOConfig(
            gradient_accumulation_steps=spec.batch * NUM_GENERATIONS // batch_size,
            num_generations=NUM_GENERATIONS,
            max_completion_length=MAX_NEW_TOKENS,
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
                [{"prompt": ids_to_text(tokenizer, group.prompt)} for group in groups]
            ),
            processing_class=tokenizer,
            callbacks=[step_clock(times)],
            peft_config=lora_config(spec),
        )
        trainer.train()
    history = trainer.state.log_history
    times.losses = [entry["loss"] for entry in history if "loss" in entry]
    times.rewards = [entry["reward"] for entry in history if "reward" in entry]
    lengths = [entry["completions/mean_length"] for entry in history if "reward" in entry]
    times.tokens = [round(length * spec.batch * NUM_GENERATIONS) for length in lengths]
    return times


TRAINERS = {
    "preference": (tunesmith_preference, trl_preference),
    "reward": (tunesmith_reward, trl_reward),
    "grpo": (tunesmith_grpo, trl_grpo),
    "grpo-kl": (tunesmith_grpo, trl_grpo),
}


def run(spec: WorkerSpec) -> StepTimes:
    """Train with tunesmith or with TRL."""
    with_tunesmith, with_trl = TRAINERS[spec.technique]
    return with_tunesmith(spec) if spec.trainer == "tunesmith" else with_trl(spec)
