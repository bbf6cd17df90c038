"""Initialize LoRA from the training rows or from the base weights: EVA, CorDA, LoRA-GA, PiSSA, ...

=======  =================================================================================
eva      singular vectors of the layers' inputs, after the adapter is added
corda    singular vectors of the weights, oriented by the covariance of the layers' inputs
lora_ga  singular vectors of the gradients of the weights
=======  =================================================================================

Some initializations subtract the initial adapter from the base weights, so that the model starts
unchanged. The base model that users have does not contain this change. The trained adapter is
therefore saved as the difference from the initial one, a plain LoRA adapter of twice the rank::

    W - B0 A0 + B A  =  W + [B, -B0] [A; A0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.contracts import Job
from tunesmith.errors import UsageError
from tunesmith_peft.adapter import add_adapter, build_config, convert_peft_errors
from tunesmith_peft.options import PeftOptions
from tunesmith_torch.data.large_data import sample_evenly
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.templates import Template
from tunesmith_torch.memory_estimate.meta_model import find_quantizable_layers
from tunesmith_torch.models.adapters import AdaptedModel, adapt_peft
from tunesmith_torch.models.loading import LoadedBase, ignore_deprecation
from tunesmith_torch.runtime.device import Precision

# isort: split
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.other import get_pattern_key

__all__ = ["add_initialized", "factors", "save_as_difference"]

ROWS = 64
"""Number of training rows that an initialization reads."""


def add_initialized(base: LoadedBase, precision: Precision, job: Job[Any]) -> AdaptedModel:
    """Add the adapter; if its initialization reads rows, run the base model on a sample of them.

    Raises:
        UsageError: PEFT rejects the options, or no row can be read.
    """
    options: PeftOptions = job.config
    kind = options.initialization
    if not options.reads_rows:
        return add_adapter(base, precision, options.method, options.options, job.seed)
    examples = _sample(base, job)
    with convert_peft_errors(options.method):
        config = build_config(options.method, options.options)
        if config.target_modules == "all-linear":
            config.target_modules = {name for _, name, _ in find_quantizable_layers(base.model)}
        if kind == "corda":
            preprocess_corda(base.model, config, run_model=lambda: _run(base, examples))
        elif kind == "lora_ga":
            preprocess_loraga(base.model, config, lambda: _run_backward(base, examples))
        adapted = adapt_peft(base, precision, config, job.seed, {"weights": options.method})
        if kind == "eva":
            inputs = [_as_input(base, example) for example in examples]
            initialize_lora_eva_weights(adapted.model, inputs, show_progress_bar=False)
    return replace(adapted, details={**adapted.details, "initialized_on_rows": len(examples)})


def _sample(base: LoadedBase, job: Job[Any]) -> Sequence[Example]:
    """Return the examples of some training rows, the same after a resume."""
    options: PeftOptions = job.config
    records = [job.train[row] for row in sample_evenly(range(len(job.train)), ROWS)]
    template = Template.from_options(base.tokenizer, options)
    tokenized = template.tokenize_records(records, options.max_length)
    if not len(tokenized.examples):
        raise UsageError("technique.options: no training row can be read for init_lora_weights")
    return [tokenized.examples[row] for row in range(len(tokenized.examples))]


def _as_input(base: LoadedBase, example: Example) -> dict[str, Tensor]:
    ids_1T = torch.as_tensor(example.ids, dtype=torch.long, device=base.model.device)[None]
    return {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)}


@torch.no_grad()
def _run(base: LoadedBase, examples: Sequence[Example]) -> None:
    for example in examples:
        base.model(**_as_input(base, example), use_cache=False)


def _run_backward(base: LoadedBase, examples: Sequence[Example]) -> None:
    for example in examples:
        inputs = _as_input(base, example)
        logits_TV = base.model(**inputs, use_cache=False).logits[0, :-1].float()
        trained_T = torch.as_tensor(example.trained)[1:].to(logits_TV.device)
        loss = functional.cross_entropy(logits_TV[trained_T], inputs["input_ids"][0, 1:][trained_T])
        loss.backward()  # type: ignore[no-untyped-call]


def factors(adapted: AdaptedModel) -> dict[str, Tensor]:
    """Return a copy of the adapter's matrices.

    Raises:
        UsageError: the adapter is not a plain low-rank update of linear layers.
    """
    state = get_peft_model_state_dict(adapted.model, save_embedding_layers=False)
    if other := [n for n in state if not n.endswith((".lora_A.weight", ".lora_B.weight"))]:
        raise UsageError(
            "technique.options: an initialization that changes the base model needs linear layers, "
            f"but the adapter has {other[0]}",
            hint="remove this module from target_modules, or choose another init_lora_weights",
        )
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def save_as_difference(adapted: AdaptedModel, initial: dict[str, Tensor]) -> AdaptedModel:
    """Return the trained adapter as one for the unchanged base model."""
    model: Any = adapted.model
    config = model.peft_config["default"]
    trained, state = factors(adapted), dict[str, Tensor]()
    ranks: dict[str, int] = {}
    for name, a_RI in trained.items():
        if ".lora_A." not in name:
            continue
        other = name.replace(".lora_A.", ".lora_B.")
        place = name.partition(".lora_A.")[0].removeprefix("base_model.model.")
        key = get_pattern_key(config.alpha_pattern, place)
        rank, alpha = len(a_RI), config.alpha_pattern.get(key, config.lora_alpha)
        scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
        state[name] = torch.cat([a_RI, initial[name]])
        state[other] = torch.cat([trained[other], -initial[other]], 1) * scale
        ranks[place] = 2 * rank
    plain = LoraConfig(
        task_type="CAUSAL_LM",
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        target_modules=sorted(ranks),
        rank_pattern={name: rank for name, rank in ranks.items() if rank != max(ranks.values())},
        alpha_pattern={name: rank for name, rank in ranks.items() if rank != max(ranks.values())},
        fan_in_fan_out=config.fan_in_fan_out,
    )
    base_model = model.unload()
    with ignore_deprecation():
        combined = get_peft_model(base_model, plain)
    set_peft_model_state_dict(combined, state)
    return replace(adapted, model=combined)
