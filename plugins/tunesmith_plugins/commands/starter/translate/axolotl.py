"""Translate an axolotl config (the FILE of ``axolotl train FILE``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith_plugins.commands.starter.translate import shared
from tunesmith_plugins.commands.starter.translate.translation import (
    FindLoader,
    Outcome,
    Translation,
    exists,
    is_disabled,
    split_names,
)

LOSSES = {"dpo": "dpo", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "kto": "kto"}
TEMPLATES = {"chatml": "chatml", "llama3": "llama-3", "gemma": "gemma", "alpaca": "alpaca"}
WITHOUT_EFFECT = {
    **shared.WITHOUT_EFFECT,
    **dict.fromkeys(
        ("flash_attention", "xformers_attention", "sdp_attention", "flex_attention",
         "eager_attention", "sage_attention", "attn_implementation", "lora_mlp_kernel",
         "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "flash_attn_cross_entropy",
         "flash_attn_fuse_mlp", "activation_offloading", "layer_offloading", "lora_on_cpu",
         "gc_steps", "max_memory", "gpu_memory_limit", "chunked_cross_entropy", "tiled_mlp",
         "liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm",
         "liger_fused_linear_cross_entropy", "cut_cross_entropy", "pad_to_sequence_len",
         "eval_sample_packing", "sample_packing_group_size", "sample_packing_bin_size",
         "dataset_processes", "dataset_num_proc", "dataset_keep_in_memory",
         "dataset_prepared_path", "skip_prepare_dataset", "tokenizer_use_fast", "device_map",
         "loss_watchdog_threshold", "loss_watchdog_patience", "dp_shard_size", "fsdp_version",
         "sequence_parallel_degree", "context_parallel_size", "tensor_parallel_size",
         "profiler_steps", "multipack_real_batches", "use_kernels", "low_cpu_mem_usage"),
        "only affects speed and memory",
    ),
    **dict.fromkeys(
        ("wandb_project", "wandb_entity", "wandb_watch", "wandb_name", "wandb_run_id",
         "wandb_log_model", "wandb_mode", "mlflow_tracking_uri", "mlflow_experiment_name",
         "use_tensorboard", "use_comet", "comet_project_name", "hf_use_auth_token"),
        "set [[reporters]] instead; access tokens do not belong in a run file",
    ),
    **dict.fromkeys(
        ("strict", "is_llama_derived_model", "is_falcon_derived_model", "is_qwen_derived_model",
         "is_mistral_derived_model", "model_type", "tokenizer_type", "base_model_config",
         "tokenizer_config", "auto_resume_from_checkpoints"),
        "read from the model's own files",
    ),
    **dict.fromkeys(("saves_per_epoch", "evals_per_epoch"), "the interval is chosen automatically"),
    "shuffle_merged_datasets": "rows are always shuffled",
    "eval_table_size": "evaluation is set by [[evaluators]]",
    "debug": "only affects log messages",
}  # fmt: skip
REFUSED = {
    **shared.REFUSED,
    "train_on_inputs": 'only answers are trained on; for plain text use data.format = "text"',
    "tokens": "the vocabulary is not changed",
    "added_tokens_overrides": "the vocabulary is not changed",
    "resize_token_embeddings_to_32x": "the vocabulary is not changed",
    "lora_model_dir": "set technique.from to start from an adapter",
    "unfrozen_parameters": "training of some parameters is not supported",
    "peft_layers_to_transform": "set technique.adapter.layers",
    "lora_rank_pattern": "set technique.adapter.rank_pattern",
    "lora_alpha_pattern": "set technique.adapter.alpha_pattern",
    "peft_init_lora_weights": "set technique.adapter.init",
    "loftq_config": "this initialization is not supported",
    "peft": "further settings of peft are not supported",
    "relora": "ReLoRA is not supported",
    "relora_steps": "ReLoRA is not supported",
    "cosine_min_lr_ratio": "the cosine schedule always ends at 0",
    "cosine_constant_lr_ratio": "the cosine schedule always ends at 0",
    "lr_quadratic_warmup": "warm-up is always linear",
    "lr_groups": "only one learning rate for all parameters is supported",
    "embedding_lr": "only one learning rate for all parameters is supported",
    "curriculum_sampling": "rows are always shuffled",
    "sample_packing_sequentially": "rows are always shuffled",
    "min_sample_len": "short rows are not skipped",
    "dataset_exact_deduplication": "remove copies yourself: `tunesmith data check` finds them",
    "reward_model": "a reward model is a stage of the `rlhf` technique",
    "trl": "this technique is not translated: see the `rlhf` technique and tunesmith-trl",
    "reinit_weights": "training from scratch is not supported",
    "chat_template_jinja": "save it as a file and set technique.chat_template.source",
    "chat_template_kwargs": "set technique.chat_template.kwargs",
    "default_system_message": "set data.system",
    "eot_tokens": "the chat template ends answers",
    "qat": "quantization-aware training is not supported",
    "pretraining_dataset": "use the `text` data loader",
    "use_pose": "the positions of the model are not changed",
    "overrides_of_model_config": "the config of the model is not changed",
    "process_reward_model": "process rewards are not supported",
}


def translate(
    source: dict[str, Any], folder: Path, recognize: FindLoader
) -> tuple[dict[str, Any], list[Outcome]]:
    """Return the run-file keys, and an outcome for each key of the config."""
    t = Translation(source)
    t.set("base_model", "model.base", str(t.get("base_model", "")))
    if t.is_on("revision_of_model"):
        t.set("revision_of_model", "model.revision", str(t.get("revision_of_model")))
    _translate_method(t)
    _translate_data(t, folder, recognize)
    shared.translate_optimization(t, "optimizer", "lr_scheduler", epochs=1.0, warmup=0.03)
    shared.translate_batch(t, "micro_batch_size", 1)
    shared.translate_checkpoints(t, "early_stopping_patience")
    shared.translate_precision(t, default="auto")
    t.rename("sequence_len", "technique.max_length", int, 512)
    t.rename("sample_packing", "technique.packing", bool, False)
    checkpointing = not is_disabled(t.get("gradient_checkpointing", False))
    t.set("gradient_checkpointing", "technique.gradient_checkpointing", checkpointing)
    if str(t.get("excess_length_strategy", "drop")) == "drop":
        t.accept("excess_length_strategy", "rows that are too long are skipped and counted")
    else:
        t.refuse("excess_length_strategy", "rows that are too long are skipped, not cut")
    _translate_template(t)
    return t.keys, t.finish(WITHOUT_EFFECT, REFUSED)


def _translate_template(t: Translation) -> None:
    name = str(t.get("chat_template", "tokenizer_default"))
    if name == "tokenizer_default":
        t.accept("chat_template", "the chat template of the model is used")
    elif name in TEMPLATES:
        t.set("chat_template", "technique.chat_template.source", TEMPLATES[name])
    else:
        t.refuse("chat_template", "the chat template of the model is used")
    special = t.get("special_tokens", {})
    if isinstance(special, dict) and set(special) <= {"pad_token"}:
        t.ignore("special_tokens", "padding is never trained on")
    elif "special_tokens" in t.source:
        t.refuse("special_tokens", "the special tokens of the model are used")
    plugins = [str(name) for name in split_names(t.get("plugins", []))]
    if all("liger" in name or "cut_cross_entropy" in name for name in plugins):
        t.ignore("plugins", "these only affect speed and memory")
    else:
        t.refuse("plugins", "axolotl plugins do not work with tunesmith")


def _translate_method(t: Translation) -> None:
    adapter, rl = str(t.get("adapter", "")), str(t.get("rl", ""))
    bits = 4 if t.is_on("load_in_4bit") else 8 if t.is_on("load_in_8bit") else None
    adapt = {"": "full", "lora": "qlora" if bits else "lora", "qlora": "qlora"}.get(adapter)
    technique = "preference" if rl in LOSSES else adapt or "lora"
    if adapt is None:
        t.refuse("adapter", f"the adapter {adapter} is not supported; lora is used")
        t.keys["technique.use"] = technique
    else:
        t.set("adapter", "technique.use", technique)
    if rl in LOSSES:
        t.keys["technique.adapt"] = adapt or "lora"
        t.set("rl", "technique.loss.type", LOSSES[rl])
        _translate_loss(t, rl)
    elif rl:
        t.refuse("rl", f"{rl} is not translated: see the `rlhf` technique and tunesmith-trl")
    if adapter == "qlora" and bits is None and "load_in_4bit" in t.source:
        t.refuse("load_in_4bit", "qlora is used, which loads the model in 4 bits")
        t.keys["technique.quantization.bits"] = 4
    elif adapt == "qlora":
        key = "load_in_8bit" if bits == 8 else "load_in_4bit"
        t.set(key, "technique.quantization.bits", bits or 4)
    for key in ("load_in_4bit", "load_in_8bit"):
        if key not in t.outcomes and t.is_on(key):
            t.refuse(key, "a quantized model is only supported with LoRA")
        elif key not in t.outcomes:
            t.ignore(key, "turned off")
    if adapt != "full":
        _translate_adapter(t)


def _translate_adapter(t: Translation) -> None:
    rank = int(t.number("lora_r", 8) or 8)
    t.set("lora_r", "technique.adapter.rank", rank)
    t.set("lora_alpha", "technique.adapter.alpha", t.number("lora_alpha", 8.0))
    shared.translate_dropout(t)
    _translate_targets(t)
    for key, target in (
        ("lora_modules_to_save", "modules_to_save"),
        ("lora_target_parameters", "target_parameters"),
    ):
        if t.is_on(key):
            t.set(key, f"technique.adapter.{target}", split_names(t.get(key)))
        else:
            t.ignore(key, "not set")
    t.rename("peft_use_rslora", "technique.adapter.use_rslora", bool, False)
    t.rename("peft_use_dora", "technique.adapter.use_dora", bool, False)


def _translate_targets(t: Translation) -> None:
    targets, target = t.get("lora_target_modules"), "technique.adapter.target_modules"
    if t.is_on("lora_target_linear") or targets == "all-linear":
        t.set("lora_target_linear", target, "all-linear")
        t.accept("lora_target_modules", "all linear layers are adapted")
    elif targets is not None:
        t.set("lora_target_modules", target, split_names(targets))
        t.ignore("lora_target_linear", "turned off")
    else:
        t.keys[target] = "all-linear"
        t.refuse(
            "lora_target_modules",
            "peft would choose layers by model type; here all linear layers are adapted",
        )
        t.ignore("lora_target_linear", "turned off")


def _translate_loss(t: Translation, rl: str) -> None:
    beta = "orpo_alpha" if rl == "orpo" else "rl_beta"
    t.rename(beta, "technique.loss.beta", float, 2.0 if rl == "simpo" else 0.1)
    if rl == "simpo":
        t.rename("simpo_gamma", "technique.loss.margin", float, 0.5)
    if rl == "dpo":
        t.rename("dpo_label_smoothing", "technique.loss.label_smoothing", float, 0.0)
    if rl == "kto":
        t.rename("kto_desirable_weight", "technique.loss.desirable_weight", float, 1.0)
        t.rename("kto_undesirable_weight", "technique.loss.undesirable_weight", float, 1.0)


# --------------------------------------------------------------------------- data

FORMATS = {
    "alpaca": "alpaca",
    "chat_template": "auto",
    "sharegpt": "sharegpt",
    "completion": "text",
    "chatml.intel": "auto",
    "llama3.intel": "auto",
    "chat_template.default": "auto",
    "chat_template.argilla": "auto",
    "unsloth": "auto",
}
"""Row formats by the ``type`` of a dataset."""
_PLAIN = {"path", "type", "split", "name", "revision", "data_files", "ds_type", "chat_template"}


def _translate_data(t: Translation, folder: Path, recognize: FindLoader) -> None:
    _translate_sets(t, folder, recognize)
    tests = t.get("test_datasets", [])
    if isinstance(tests, list) and len(tests) == 1 and isinstance(tests[0], dict):
        found, is_local = _find_files(tests[0], folder)
        if is_local and t.keys["data.use"] == shared.choose_loader(found, recognize):
            t.set("test_datasets", "data.test", found[0] if len(found) == 1 else found)
    if "data.test" in t.keys:
        t.ignore("val_set_size", "test_datasets takes precedence")
    elif tests:
        t.refuse("test_datasets", "set data.test, or data.test_split")
    elif t.is_on("val_set_size"):
        size = t.number("val_set_size") or 0.0
        t.set("val_set_size", "data.test_size", size if size < 1 else int(size))


def _translate_sets(t: Translation, folder: Path, recognize: FindLoader) -> None:
    """Translate the datasets. Later ones must have the loader, type and columns of the first."""
    sets = t.get("datasets", [])
    sets = [item for item in sets if isinstance(item, dict)] if isinstance(sets, list) else []
    problems, files = [], []
    first: dict[str, Any] = {}
    for number, item in enumerate(sets):
        found, is_local = _find_files(item, folder)
        use = shared.choose_loader(found, recognize) if is_local else "hub-dataset"
        if number and (not is_local or t.keys["data.use"] != use):
            problems.append(
                f"only the first dataset is used, not {found[0]}: use the `mixture` data loader"
            )
            continue
        files += found
        own, missing = _translate_set(item, is_local)
        problems += missing
        if str(item.get("chat_template") or t.get("chat_template")) != str(t.get("chat_template")):
            problems.append("chat_template of a dataset")
        if use is None:
            problems.append(
                "the files of a dataset need several data loaders: use the `mixture` data loader"
            )
        if not number:
            first = own
            t.keys |= {"data.use": use or "jsonl", **own}
        elif own != first:
            problems.append(
                f"{found[0]} is read with the type, columns and split of the first dataset"
            )
    t.keys.setdefault("data.use", "jsonl")
    t.keys["data.train"] = files[0] if len(files) == 1 else files or "data.jsonl"
    if problems or not files:
        t.refuse(
            "datasets", "; ".join(dict.fromkeys(problems)) or "the configuration lists no datasets"
        )
    else:
        t.accept("datasets", f"data.train = {t.keys['data.train']}")


def _find_files(item: dict[str, Any], folder: Path) -> tuple[list[str], bool]:
    """Return a dataset's files and True, or its address on the Hub and False."""
    path, files = str(item.get("path", "")), item.get("data_files") or []
    if isinstance(files, dict):
        files = files.get(str(item.get("split") or "train")) or []
    names = split_names(files)
    if path in ("json", "csv", "parquet") and names:
        return [str(folder / name) for name in names], True
    is_local = exists(folder / path) or path.endswith((".json", ".jsonl", ".parquet", ".csv"))
    if is_local and names:
        return [str(folder / path / name) for name in names], True
    return ([str(folder / path)], True) if is_local else ([f"hf://{path}"], False)


def _translate_set(item: dict[str, Any], is_local: bool) -> tuple[dict[str, Any], list[str]]:
    """Translate the keys of a dataset; return the run file's keys, and the untranslated keys."""
    keys: dict[str, Any] = {}
    problems = []
    kind = item.get("type")
    if isinstance(kind, dict):
        problems += _translate_columns(keys, kind)
    elif str(kind) in FORMATS:
        keys["data.format"] = FORMATS[str(kind)]
    elif kind is not None:
        problems.append(f"type {kind}: check the columns with `tunesmith data show`")
    if "field_messages" in item and item["field_messages"] not in ("messages", "conversations"):
        keys["data.columns.messages"] = str(item["field_messages"])
    problems += _translate_split(keys, item, is_local)
    roles = [role for role in split_names(item.get("roles_to_train") or []) if role != "gpt"]
    if roles not in ([], ["assistant"]):
        problems.append("roles_to_train: only answers of the assistant are trained on")
    if str(item.get("train_on_eos") or "turn") != "turn":
        problems.append("train_on_eos: the end of each answer is trained on")
    known = _PLAIN | {"field_messages", "roles_to_train", "train_on_eos"}
    problems += [f"{key} of a dataset" for key in sorted(set(map(str, item)) - known)]
    return keys, problems


def _translate_split(keys: dict[str, Any], item: dict[str, Any], is_local: bool) -> list[str]:
    """Translate the split to read from a dataset; return the keys that are not translated."""
    if is_local:
        split = str(item.get("split") or "train")
        return [] if split == "train" else [f"split {split} of a file"]
    for key in ("split", "name", "revision"):
        if item.get(key) is not None:
            keys[f"data.{key}"] = str(item[key])
    return ["data_files of a dataset"] if item.get("data_files") else []


def _translate_columns(keys: dict[str, Any], kind: dict[str, Any]) -> list[str]:
    """Translate a type that defines columns; return its keys that are not translated."""
    names = {
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "field_system": "system",
        "field_prompt": "prompt",
        "field_chosen": "chosen",
        "field_rejected": "rejected",
        "field_completion": "completion",
        "field_label": "label",
    }
    for theirs, ours in names.items():
        if kind.get(theirs):
            keys[f"data.columns.{ours}"] = str(kind[theirs])
    if kind.get("system_prompt"):
        keys["data.system"] = str(kind["system_prompt"])
    others = sorted(set(map(str, kind)) - {*names, "system_prompt"})
    return [f"{key} of type: the texts around columns are not translated" for key in others]
