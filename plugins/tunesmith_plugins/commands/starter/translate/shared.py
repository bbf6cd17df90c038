"""Translate the settings that both tools take from transformers and peft."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith_plugins.commands.starter.translate.translation import FindLoader, Translation

OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "paged_adamw_32bit": "adamw",
    "adamw_8bit": "adamw-8bit",
    "adamw_bnb_8bit": "adamw-8bit",
    "paged_adamw_8bit": "paged-adamw-8bit",
}
"""Maps the names of optimizers in transformers to ours. Paged variants compute the same updates."""
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
WITHOUT_EFFECT = {
    **dict.fromkeys(
        ("output_dir", "overwrite_output_dir", "run_name", "logging_dir", "resume_from_checkpoint",
         "save_only_model", "save_safetensors", "save_strategy"),
        "every run gets its own folder in [run] folder",
    ),
    **dict.fromkeys(
        ("logging_steps", "logging_first_step", "report_to", "logging_strategy", "plot_loss",
         "disable_tqdm"),
        "set [[reporters]] instead",
    ),
    **dict.fromkeys(
        ("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
         "preprocessing_num_workers", "tokenized_path", "cache_dir"),
        "only affects speed",
    ),
    **dict.fromkeys(
        ("deepspeed", "fsdp", "fsdp_config", "ddp_timeout", "ddp_find_unused_parameters", "ddp",
         "local_rank", "world_size"),
        "only affects training in several processes; batch_size is the total over all of them",
    ),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "eval_batch_size", "eval_strategy", "evaluation_strategy",
         "eval_accumulation_steps", "metric_for_best_model", "greater_is_better",
         "eval_on_start"),
        "[[evaluators]] measure the base model and the result on test rows",
    ),
    **dict.fromkeys(
        ("hub_model_id", "hub_strategy", "push_to_hub", "hub_revision"), "nothing is uploaded"
    ),
    **dict.fromkeys(
        ("tf32", "torch_compile", "torch_compile_backend", "low_cpu_mem_usage", "flash_attn",
         "gradient_checkpointing_kwargs", "include_tokens_per_second",
         "include_num_input_tokens_seen"),
        "only affects speed and memory",
    ),
}  # fmt: skip
REFUSED = {
    "trust_remote_code": "code in model folders is never executed, so models that need it "
    "cannot be used",
    "neftune_noise_alpha": "noise in the embeddings (NEFTune) is not supported",
    "label_smoothing_factor": "label smoothing is only supported for pairs",
    "loraplus_lr_ratio": "set technique.adapter.b_rate_ratio",
    "loraplus_lr_embedding": "embeddings have no separate learning rate",
    "group_by_length": "rows are packed instead of grouped by length",
    "fp16": "fp16 is not supported; use bf16 or fp32",
    "fp8": "fp8 is not supported",
    "optim_args": "further optimizer arguments are not supported",
    "lr_scheduler_kwargs": "further schedule arguments are not supported",
    "adam_epsilon": "the epsilon of AdamW is fixed at 1e-8",
}


def translate_optimization(
    t: Translation, optimizer: str, schedule: str, *, epochs: float, warmup: float
) -> None:
    """Translate optimizer, schedule and training length. Key names and defaults vary by tool."""
    t.rename("learning_rate", "technique.learning_rate", float, 5e-5)
    name = str(t.get(optimizer, "adamw_torch"))
    if name in OPTIMIZERS:
        t.set(optimizer, "technique.optimizer.name", OPTIMIZERS[name])
    else:
        t.refuse(optimizer, f"the optimizer {name} is not supported; AdamW is used")
    t.rename("weight_decay", "technique.optimizer.weight_decay", float, 0.0)
    t.rename("max_grad_norm", "technique.optimizer.max_grad_norm", float, 1.0)
    betas = [t.number("adam_beta1", 0.9), t.number("adam_beta2", 0.999)]
    if t.is_on("adam_beta1") or t.is_on("adam_beta2"):
        for key in ("adam_beta1", "adam_beta2"):
            t.set(key, "technique.optimizer.betas", betas)
    if t.number("adam_epsilon", 1e-8) == 1e-8:
        t.ignore("adam_epsilon", "this is the default")
    _translate_schedule(t, schedule, warmup)
    epochs_key = "num_epochs" if "num_epochs" in t.source else "num_train_epochs"
    t.rename(epochs_key, "technique.epochs", float, epochs)
    steps = t.number("max_steps")
    if steps is not None and steps > 0:
        t.set("max_steps", "technique.max_steps", int(steps))
    elif steps is not None:
        t.ignore("max_steps", "turned off")
    t.rename("seed", "run.seed", int, 42)


def _translate_schedule(t: Translation, key: str, warmup: float) -> None:
    name = str(t.get(key, "cosine" if key == "lr_scheduler" else "linear"))
    if name in SCHEDULES:
        t.set(key, "technique.schedule.type", SCHEDULES[name])
    else:
        t.refuse(key, f"the schedule {name} is not supported; cosine is used")
    ratio, steps = t.number("warmup_ratio"), t.number("warmup_steps")
    most = t.number("max_steps")
    if steps and most and most > 0:
        t.set("warmup_steps", "technique.schedule.warmup_ratio", min(steps / most, 0.99))
        if ratio is not None:
            t.ignore("warmup_ratio", "warmup_steps takes precedence")
    elif steps:
        t.keys["technique.schedule.warmup_ratio"] = ratio or 0.0
        t.refuse(
            "warmup_steps",
            "the number of steps is not known before the run: set technique.schedule.warmup_ratio",
        )
    else:
        if ratio is None:
            ratio = warmup if steps is None else 0.0
        t.set("warmup_ratio", "technique.schedule.warmup_ratio", ratio)
        t.ignore("warmup_steps", "turned off")


def translate_batch(t: Translation, size: str, default: int) -> None:
    """Translate the batch size: rows per pass times gradient accumulation steps."""
    rows, passes = t.number(size, default), t.number("gradient_accumulation_steps", 1)
    batch = int(rows or default) * int(passes or 1)
    for key in (size, "gradient_accumulation_steps"):
        t.set(key, "technique.batch_size", batch)


def translate_dropout(t: Translation) -> None:
    """Translate the adapter's dropout, which both tools turn off for preference losses."""
    if t.keys.get("technique.use") == "preference":
        t.ignore("lora_dropout", "both tools train preference losses without dropout")
    else:
        t.rename("lora_dropout", "technique.adapter.dropout", float, 0.0)


def translate_checkpoints(t: Translation, patience: str) -> None:
    """Translate when to save checkpoints, when to evaluate, and when to stop early."""
    for key, target in (
        ("save_steps", "technique.checkpoints.every"),
        ("save_total_limit", "technique.checkpoints.keep"),
        ("eval_steps", "technique.validation.every"),
        (patience, "technique.validation.patience"),
    ):
        number = t.number(key)
        if number is not None and number >= 1:
            t.set(key, target, int(number))
        elif key in t.source:
            t.ignore(key, "the interval is chosen automatically")
    best = t.is_on("load_best_model_at_end") or t.is_on(patience)
    t.set("load_best_model_at_end", "technique.validation.keep_best", best)


def translate_precision(t: Translation, *, default: str) -> None:
    """Translate the precision: bf16, fp16 or neither."""
    value = t.get("bf16")
    if value == "auto":
        t.set("bf16", "technique.precision", "auto")
    elif value is not None:
        t.set("bf16", "technique.precision", "fp32" if not t.is_on("bf16") else "bf16")
    else:
        t.set("bf16", "technique.precision", default)
    if t.is_on("fp16"):
        t.keys["technique.precision"] = "auto"


def choose_loader(files: Sequence[str], recognize: FindLoader) -> str | None:
    """Return the data loader for files of rows, chosen by suffix.

    The result is None if they need several loaders.
    """
    used = {"table" if recognize([file]) == "table" else "jsonl" for file in files}
    return used.pop() if len(used) == 1 else None
