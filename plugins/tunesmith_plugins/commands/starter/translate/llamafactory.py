"""Translate a LLaMA-Factory config (the FILE of ``llamafactory-cli train FILE``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith_plugins.commands.starter.translate import shared
from tunesmith_plugins.commands.starter.translate.translation import (
    FindLoader,
    Outcome,
    Translation,
    exists,
    split_names,
)

STAGES = {"sft": "", "pt": "", "dpo": "preference", "kto": "preference"}
LOSSES = {"sigmoid": "dpo", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}
WITHOUT_EFFECT = {
    **shared.WITHOUT_EFFECT,
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "a run always trains and evaluates"),
    **dict.fromkeys(
        ("use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "use_v1_kernels", "use_kv_cache",
         "use_reentrant_gc", "use_fast_tokenizer", "infer_backend", "infer_dtype",
         "offload_folder", "streaming", "buffer_size", "preprocessing_batch_size",
         "overwrite_cache", "data_shared_file_system", "print_param_status"),
        "only affects speed and memory",
    ),
    **dict.fromkeys(
        ("hf_hub_token", "ms_hub_token", "om_hub_token", "use_swanlab", "swanlab_project",
         "swanlab_run_name", "swanlab_api_key", "swanlab_mode", "swanlab_workspace"),
        "access tokens and trackers do not belong in a run file",
    ),
    **dict.fromkeys(
        ("ray_run_name", "ray_storage_path", "ray_num_workers", "placement_strategy",
         "resources_per_worker", "ray_init_kwargs"),
        "only affects training on several machines",
    ),
    "ignore_pad_token_for_loss": "padding is never trained on",
    "compute_accuracy": "evaluation is set by [[evaluators]]",
    "eval_on_each_dataset": "evaluation is set by [[evaluators]]",
    "dataset_dir": "used to find the files",
}  # fmt: skip
REFUSED = {
    **shared.REFUSED,
    "train_on_prompt": "only answers are trained on; for plain text use the `text` data loader",
    "mask_history": "every answer in a conversation is trained on",
    "max_samples": "all rows are read; shorten the file yourself",
    "template": "the chat template of the model is used: compare with tunesmith data show --tokens",
    "tool_format": "the chat template of the model writes the tools",
    "enable_thinking": "set technique.chat_template.kwargs if the template has this variable",
    "preserve_thinking": "set technique.chat_template.kwargs if the template has this variable",
    "mix_strategy": "sources are concatenated; for shares, use the `mixture` data loader",
    "interleave_probs": "sources are concatenated; for shares, use the `mixture` data loader",
    "disable_shuffling": "rows are always shuffled",
    "adapter_name_or_path": "set technique.from to start from an adapter",
    "freeze_trainable_layers": "training of some layers is not supported",
    "pissa_init": 'set technique.adapter.init = "pissa"',
    "pref_ftx": "a supervised term in the preference loss is not supported",
    "ref_model": "the reference is the model that training starts from",
    "rope_scaling": "the positions of the model are not changed",
    "resize_vocab": "the vocabulary is not changed",
    "add_tokens": "the vocabulary is not changed",
    "add_special_tokens": "the vocabulary is not changed",
    "media_dir": "images, audio and video are not read",
    "image_max_pixels": "images, audio and video are not read",
    "video_max_pixels": "images, audio and video are not read",
    "pure_bf16": "trained weights are kept in fp32",
}


def translate(
    source: dict[str, Any], folder: Path, recognize: FindLoader
) -> tuple[dict[str, Any], list[Outcome]]:
    """Return the run-file keys, and an outcome for each key of the config."""
    t = Translation(source)
    t.set("model_name_or_path", "model.base", str(t.get("model_name_or_path", "")))
    if t.get("model_revision", "main") != "main":
        t.set("model_revision", "model.revision", str(t.get("model_revision")))
    t.ignore("model_revision", "this is the default") if "model.revision" not in t.keys else None
    _translate_method(t)
    _translate_data(t, folder, recognize)
    shared.translate_optimization(t, "optim", "lr_scheduler_type", epochs=3.0, warmup=0.0)
    shared.translate_batch(t, "per_device_train_batch_size", 8)
    shared.translate_checkpoints(t, "early_stopping_steps")
    shared.translate_precision(t, default="fp32")
    t.rename("cutoff_len", "technique.max_length", int, 2048)
    off = t.is_on("disable_gradient_checkpointing")
    t.set("disable_gradient_checkpointing", "technique.gradient_checkpointing", not off)
    packed = t.is_on("packing") or t.is_on("neat_packing") or t.get("stage") == "pt"
    t.set("packing", "technique.packing", packed)
    if t.is_on("packing") and not t.is_on("neat_packing"):
        t.refuse("packing", "rows are packed, but never attend to each other")
    t.accept("neat_packing", "packed rows never attend to each other")
    if "technique.from" in t.keys or not t.is_on("adapter_name_or_path"):
        t.ignore("create_new_adapter", "no earlier adapter is used")
    return t.keys, t.finish(WITHOUT_EFFECT, REFUSED)


def _translate_method(t: Translation) -> None:
    stage, kind = str(t.get("stage", "sft")), str(t.get("finetuning_type", "lora"))
    bits = t.number("quantization_bit")
    adapt = "qlora" if bits in (4, 8) and kind == "lora" else kind
    if kind not in ("lora", "full"):
        t.refuse("finetuning_type", f"{kind} is not supported; lora is used")
        adapt = "lora"
    technique = STAGES.get(stage, "") or adapt
    t.set("finetuning_type", "technique.use", technique) if kind in ("lora", "full") else None
    t.keys["technique.use"] = technique
    if stage in STAGES:
        t.set("stage", "technique.use", technique)
    else:
        t.refuse("stage", f"the stage {stage} is not translated: see the `rlhf` technique")
    if technique == "preference":
        t.keys["technique.adapt"] = adapt
        _translate_loss(t, stage)
    if bits in (4, 8) and adapt == "qlora":
        t.set("quantization_bit", "technique.quantization.bits", int(bits or 4))
        t.rename("double_quantization", "technique.quantization.double_quantization", bool, True)
    elif bits is not None:
        t.refuse("quantization_bit", "only 4 and 8 bits are supported, and only with LoRA")
    _accept_if(t, "quantization_method", ("bnb", "bitsandbytes"), "only bitsandbytes is supported")
    _accept_if(t, "quantization_type", ("nf4",), "only nf4 is supported")
    if adapt != "full":
        _translate_adapter(t)


def _accept_if(t: Translation, key: str, known: tuple[str, ...], reason: str) -> None:
    if key in t.source and str(t.get(key, known[0])) in known:
        t.accept(key, "tunesmith uses the same")
    elif key in t.source:
        t.refuse(key, reason)


def _translate_adapter(t: Translation) -> None:
    rank = int(t.number("lora_rank", 8) or 8)
    t.set("lora_rank", "technique.adapter.rank", rank)
    t.set("lora_alpha", "technique.adapter.alpha", t.number("lora_alpha", 2 * rank))
    shared.translate_dropout(t)
    names = split_names(t.get("lora_target", "all"))
    targets: object = "all-linear" if names == ["all"] else names
    t.set("lora_target", "technique.adapter.target_modules", targets)
    if t.is_on("additional_target"):
        names = split_names(t.get("additional_target"))
        t.set("additional_target", "technique.adapter.modules_to_save", names)
    t.rename("use_rslora", "technique.adapter.use_rslora", bool, False)
    t.rename("use_dora", "technique.adapter.use_dora", bool, False)


def _translate_loss(t: Translation, stage: str) -> None:
    name = "kto" if stage == "kto" else LOSSES.get(str(t.get("pref_loss", "sigmoid")), "")
    if name:
        t.set("pref_loss", "technique.loss.type", name)
    else:
        t.refuse("pref_loss", f"the loss {t.get('pref_loss')} is not supported; dpo is used")
    t.rename("pref_beta", "technique.loss.beta", float, 0.1)
    if name == "simpo":
        t.rename("simpo_gamma", "technique.loss.margin", float, 0.5)
    if name == "dpo":
        t.rename("dpo_label_smoothing", "technique.loss.label_smoothing", float, 0.0)
    if name == "kto":
        t.rename("kto_chosen_weight", "technique.loss.desirable_weight", float, 1.0)
        t.rename("kto_rejected_weight", "technique.loss.undesirable_weight", float, 1.0)


# --------------------------------------------------------------------------- data


def _translate_data(t: Translation, folder: Path, recognize: FindLoader) -> None:
    known = _read_known(folder, str(t.get("dataset_dir", "data")))
    names = split_names(t.get("dataset", ""))
    train = _find_files(t, "dataset", names, known, folder)
    is_hub = any(name.startswith("hf://") for name in train)
    use = "hub-dataset" if is_hub else shared.choose_loader(train, recognize)
    if use is None:
        t.refuse("dataset", "the files need several data loaders: use the `mixture` data loader")
        use = "jsonl"
    if t.get("stage") == "pt" and use == "jsonl":
        t.keys["data.format"] = "text"
    t.keys["data.use"] = use
    t.keys["data.train"] = train[0] if len(train) == 1 else train
    if use == "hub-dataset" and len(train) > 1:
        t.keys["data.train"] = train[0]
        t.refuse("dataset", f"only {train[0]} is used: for several, use the `mixture` data loader")
    if t.is_on("eval_dataset"):
        held = _find_files(t, "eval_dataset", split_names(t.get("eval_dataset")), known, folder)
        t.keys["data.test"] = held[0] if len(held) == 1 else held
        t.ignore("val_size", "eval_dataset takes precedence")
    elif t.is_on("val_size"):
        size = t.number("val_size") or 0.0
        t.set("val_size", "data.test_size", size if size < 1 else int(size))
    if t.is_on("default_system"):
        t.set("default_system", "data.system", str(t.get("default_system")))


def _read_known(folder: Path, name: str) -> dict[str, Any]:
    """Read ``dataset_info.json``, looking near the configuration and in the current folder."""
    for base in (folder, Path.cwd()):
        try:
            found = json.loads((base / name / "dataset_info.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return {"": str(base / name), **found}
    return {}


def _find_files(
    t: Translation, key: str, names: list[str], known: dict[str, Any], folder: Path
) -> list[str]:
    """Return the files of the named datasets, and record those not found or not translated."""
    files, problems = [], []
    for name in names:
        entry = known.get(name)
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            files.append(str(Path(known[""]) / entry["file_name"]))
            problems += _translate_entry(t, name, entry)
        elif isinstance(entry, dict) and isinstance(entry.get("hf_hub_url"), str):
            files.append(f"hf://{entry['hf_hub_url']}")
            problems += _translate_entry(t, name, entry)
        elif exists(folder / name):
            files.append(str(folder / name))
        else:
            files.append(f"{name}.json")
            problems.append(f"{name} is not in dataset_info.json: set the path of its file")
    if problems:
        t.refuse(key, "; ".join(problems))
    else:
        t.accept(key, f"data.{'test' if key == 'eval_dataset' else 'train'} = {files}")
    return files or ["data.json"]


COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "messages": "conversations",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "label",
}
"""Maps names in dataset_info.json to tunesmith's fields."""


def _translate_entry(t: Translation, name: str, entry: dict[str, Any]) -> list[str]:
    """Translate the columns of an entry; return the keys that are not translated."""
    problems = []
    columns = entry.get("columns") or {}
    for theirs, column in columns.items() if isinstance(columns, dict) else ():
        if theirs not in COLUMNS:
            problems.append(f"{name}: column {theirs}")
        elif COLUMNS[theirs] != column and theirs not in ("messages", "kto_tag"):
            t.keys[f"data.columns.{COLUMNS[theirs]}"] = str(column)
        elif theirs == "messages" and column not in ("conversations", "messages"):
            t.keys["data.columns.messages"] = str(column)
    ignored = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "columns", "formatting")
    others = set(entry) - {*ignored, "ranking", "split"}
    problems += [f"{name}: {key} of dataset_info.json" for key in sorted(others)]
    if "split" in entry and "hf_hub_url" in entry:
        t.keys["data.split"] = str(entry["split"])
    return problems
