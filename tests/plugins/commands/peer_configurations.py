"""Configurations in the manner of axolotl and LLaMA-Factory, with what they should become.

Each is the text, keys of the run file that it must have, and the keys that are not translated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A configuration and its expected translation."""

    name: str
    text: str
    keys: dict[str, Any]
    refused: set[str] = field(default_factory=set)


LLAMAFACTORY = [
    Case(
        "lf-sft-lora",
        """
model_name_or_path: meta-llama/Llama-3.2-1B-Instruct
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: q_proj, v_proj
dataset: tickets
template: llama3
cutoff_len: 1024
output_dir: saves/tickets
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
""",
        {
            "technique.use": "lora",
            "technique.adapter.rank": 16,
            "technique.adapter.alpha": 32.0,
            "technique.adapter.target_modules": ["q_proj", "v_proj"],
            "technique.batch_size": 16,
            "technique.learning_rate": 1e-4,
            "technique.schedule.warmup_ratio": 0.1,
            "technique.precision": "bf16",
            "technique.validation.keep_best": False,
            "data.test_size": 0.1,
            "data.columns.instruction": "question",
            "data.columns.output": "answer",
            "run.seed": 42,
        },
        {"template"},
    ),
    Case(
        "lf-full-defaults",
        "model_name_or_path: some/model\nstage: sft\nfinetuning_type: full\ndataset: rows.jsonl\n",
        {
            "technique.use": "full",
            "technique.batch_size": 8,
            "technique.learning_rate": 5e-5,
            "technique.epochs": 3.0,
            "technique.schedule.type": "linear",
            "technique.schedule.warmup_ratio": 0.0,
            "technique.precision": "fp32",
            "technique.packing": False,
            "technique.max_length": 2048,
            "technique.gradient_checkpointing": True,
        },
    ),
    Case(
        "lf-qlora",
        """
model_name_or_path: some/model
finetuning_type: lora
quantization_bit: 4
quantization_method: bnb
double_quantization: false
lora_target: all
lora_dropout: 0.05
lora_alpha: 8
use_rslora: true
dataset: rows.jsonl
optim: paged_adamw_8bit
weight_decay: 1e-2
seed: 7
save_steps: 100
save_total_limit: 3
load_best_model_at_end: true
hf_hub_token: a-secret-of-mine
""",
        {
            "technique.use": "qlora",
            "technique.quantization.bits": 4,
            "technique.quantization.double_quantization": False,
            "technique.adapter.use_rslora": True,
            "technique.adapter.alpha": 8.0,
            "technique.adapter.target_modules": "all-linear",
            "technique.optimizer.name": "paged-adamw-8bit",
            "technique.optimizer.weight_decay": 0.01,
            "technique.checkpoints.keep": 3,
            "technique.validation.keep_best": True,
            "run.seed": 7,
        },
    ),
    Case(
        "lf-dpo",
        """
model_name_or_path: some/model
stage: dpo
finetuning_type: lora
pref_beta: 0.2
pref_loss: sigmoid
dpo_label_smoothing: 0.1
dataset: rows.jsonl
learning_rate: 5e-6
deepspeed: ds_z3.json
max_samples: 1000
""",
        {
            "technique.use": "preference",
            "technique.adapt": "lora",
            "technique.loss.type": "dpo",
            "technique.loss.beta": 0.2,
            "technique.loss.label_smoothing": 0.1,
            "technique.learning_rate": 5e-6,
        },
        {"max_samples"},
    ),
    Case(
        "lf-simpo",
        "model_name_or_path: m/m\nstage: dpo\npref_loss: simpo\nsimpo_gamma: 0.8\npref_beta: 2\n"
        "dataset: rows.jsonl\n",
        {"technique.loss.type": "simpo", "technique.loss.margin": 0.8, "technique.loss.beta": 2.0},
    ),
    Case(
        "lf-kto",
        "model_name_or_path: m/m\nstage: kto\nkto_chosen_weight: 1.5\npref_beta: 0.1\n"
        "dataset: rows.jsonl\n",
        {"technique.loss.type": "kto", "technique.loss.desirable_weight": 1.5},
    ),
    Case(
        "lf-pretrain",
        "model_name_or_path: m/m\nstage: pt\nfinetuning_type: full\ndataset: rows.jsonl\n"
        "streaming: true\nmax_steps: 500\nwarmup_steps: 50\n",
        {
            "technique.use": "full",
            "data.format": "text",
            "technique.packing": True,
            "technique.max_steps": 500,
            "technique.schedule.warmup_ratio": 0.1,
        },
    ),
    Case(
        "lf-reward",
        "model_name_or_path: m/m\nstage: rm\ndataset: rows.jsonl\n",
        {"technique.use": "lora"},
        {"stage"},
    ),
    Case(
        "lf-exotic",
        """
model_name_or_path: m/m
trust_remote_code: true
finetuning_type: freeze
freeze_trainable_layers: 4
use_galore: true
galore_rank: 16
neftune_noise_alpha: 5
mask_history: true
train_on_prompt: true
packing: true
optim: adafactor
lr_scheduler_type: polynomial
warmup_steps: 100
adam_beta2: 0.95
adam_epsilon: 1e-6
fp16: true
rope_scaling: linear
dataset: a,b
default_system: Be brief.
""",
        {
            "technique.optimizer.betas": [0.9, 0.95],
            "technique.packing": True,
            "data.system": "Be brief.",
            "data.train": ["a.json", "b.json"],
        },
        {
            "trust_remote_code", "finetuning_type", "freeze_trainable_layers", "use_galore",
            "galore_rank", "neftune_noise_alpha", "mask_history", "train_on_prompt", "packing",
            "optim", "lr_scheduler_type", "warmup_steps", "adam_epsilon", "fp16", "rope_scaling",
            "dataset",
        },
    ),
]  # fmt: skip

AXOLOTL = [
    Case(
        "ax-lora",
        """
base_model: NousResearch/Llama-3.2-1B
load_in_8bit: false
datasets:
  - path: rows.jsonl
    type: alpaca
val_set_size: 0.1
output_dir: ./outputs/lora-out
adapter: lora
sequence_len: 2048
sample_packing: true
eval_sample_packing: true
pad_to_sequence_len: true
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_modules:
  - gate_proj
  - down_proj
wandb_project:
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
tf32: false
gradient_checkpointing: true
logging_steps: 1
flash_attention: true
warmup_ratio: 0.1
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
special_tokens:
  pad_token: "<|end_of_text|>"
""",
        {
            "technique.use": "lora",
            "technique.batch_size": 4,
            "technique.packing": True,
            "technique.adapter.target_modules": ["gate_proj", "down_proj"],
            "technique.optimizer.name": "adamw-8bit",
            "technique.precision": "auto",
            "data.format": "alpaca",
            "data.test_size": 0.1,
        },
    ),
    Case(
        "ax-qlora-chat",
        """
base_model: m/m
load_in_4bit: true
adapter: qlora
lora_target_linear: true
lora_r: 32
lora_alpha: 16
chat_template: chatml
datasets:
  - path: data/chat.jsonl
    type: chat_template
    field_messages: dialogue
    roles_to_train: ["assistant"]
    train_on_eos: turn
micro_batch_size: 1
gradient_accumulation_steps: 4
learning_rate: 2e-4
train_on_inputs: false
group_by_length: false
early_stopping_patience: 3
seed: 3
""",
        {
            "technique.use": "qlora",
            "technique.quantization.bits": 4,
            "technique.adapter.target_modules": "all-linear",
            "technique.chat_template.source": "chatml",
            "data.columns.messages": "dialogue",
            "technique.learning_rate": 2e-4,
            "technique.validation.patience": 3,
            "technique.validation.keep_best": True,
            "technique.schedule.warmup_ratio": 0.03,
            "technique.max_length": 512,
            "run.seed": 3,
        },
    ),
    Case(
        "ax-full-hub",
        """
base_model: m/m
datasets:
  - path: owner/set
    name: en
    split: train
    type: alpaca
num_epochs: 2
optimizer: adamw_torch_fused
lr_scheduler: linear
plugins:
  - axolotl.integrations.liger.LigerPlugin
liger_rope: true
deepspeed: deepspeed_configs/zero2.json
""",
        {
            "technique.use": "full",
            "data.use": "hub-dataset",
            "data.train": "hf://owner/set",
            "data.name": "en",
            "data.split": "train",
            "technique.epochs": 2.0,
            "technique.schedule.type": "linear",
        },
    ),
    Case(
        "ax-dpo",
        """
base_model: m/m
adapter: lora
rl: dpo
rl_beta: 0.3
lora_dropout: 0.05
datasets:
  - path: rows.jsonl
    type: chat_template.default
""",
        {
            "technique.use": "preference",
            "technique.adapt": "lora",
            "technique.loss.type": "dpo",
            "technique.loss.beta": 0.3,
        },
        {"lora_target_modules"},
    ),
    Case(
        "ax-orpo",
        "base_model: m/m\nadapter: qlora\nload_in_4bit: true\nrl: orpo\norpo_alpha: 0.2\n"
        "datasets:\n  - {path: rows.jsonl, type: chat_template.argilla}\n",
        {
            "technique.adapt": "qlora",
            "technique.loss.type": "orpo",
            "technique.loss.beta": 0.2,
            "technique.quantization.bits": 4,
        },
        {"lora_target_modules"},
    ),
    Case(
        "ax-kto",
        "base_model: m/m\nadapter: lora\nrl: kto\nkto_undesirable_weight: 0.5\nrl_beta: 0.1\n"
        "datasets:\n  - {path: rows.jsonl}\n",
        {"technique.loss.type": "kto", "technique.loss.undesirable_weight": 0.5},
        {"lora_target_modules"},
    ),
    Case(
        "ax-custom-columns",
        """
base_model: m/m
adapter: lora
datasets:
  - path: rows.jsonl
    type:
      system_prompt: Be brief.
      field_instruction: question
      field_output: answer
      format: "[INST] {instruction} [/INST]"
test_datasets:
  - path: test.jsonl
    type: alpaca
""",
        {
            "data.columns.instruction": "question",
            "data.columns.output": "answer",
            "data.system": "Be brief.",
        },
        {"datasets", "lora_target_modules"},
    ),
    Case(
        "ax-grpo",
        "base_model: m/m\nrl: grpo\ntrl: {beta: 0.1}\ndatasets:\n  - {path: rows.jsonl}\n",
        {"technique.use": "full"},
        {"rl", "trl"},
    ),
    Case(
        "ax-exotic",
        """
base_model: m/m
trust_remote_code: true
adapter: loha
load_in_8bit: true
neftune_noise_alpha: 5
train_on_inputs: true
group_by_length: true
cosine_min_lr_ratio: 0.1
lr_groups: [{name: a, modules: [b], lr: 1}]
loraplus_lr_ratio: 16
unfrozen_parameters: [lm_head]
lora_modules_to_save: [embed_tokens, lm_head]
peft_use_dora: true
tokens: ["<a>"]
special_tokens: {bos_token: "<s>"}
chat_template: qwen3
excess_length_strategy: truncate
plugins: [some.other.Plugin]
optimizer: muon
lr_scheduler: rex
datasets:
  - {path: a.jsonl, type: input_output, shards: 4}
  - {path: owner/set, type: alpaca}
a_key_of_tomorrow: 1
""",
        {
            "technique.adapter.modules_to_save": ["embed_tokens", "lm_head"],
            "technique.adapter.use_dora": True,
        },
        {
            "trust_remote_code", "adapter", "load_in_8bit", "neftune_noise_alpha",
            "lora_target_modules",
            "train_on_inputs", "group_by_length", "cosine_min_lr_ratio", "lr_groups",
            "loraplus_lr_ratio", "unfrozen_parameters", "tokens", "special_tokens",
            "chat_template", "excess_length_strategy", "plugins", "optimizer", "lr_scheduler",
            "datasets", "a_key_of_tomorrow",
        },
    ),
]  # fmt: skip
CASES = [*LLAMAFACTORY, *AXOLOTL]
