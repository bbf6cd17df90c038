"""Artifacts: save trained weights in standard formats, and load them again.

An adapter is a PEFT folder, a fully trained model a transformers folder. Both contain safetensors
weights, the tokenizer with its chat template, and a ``generation_config.json`` that stops at the
token which ends an answer. A folder is committed in one step, with a manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith_torch.runtime import peft_import  # must precede peft

# isort: split
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import IntegrityError, TunesmithError
from tunesmith.machine import expand_home
from tunesmith.storage import commit_folder
from tunesmith.text import redact
from tunesmith_torch.data.templates import Template
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapter_config import can_load_on_meta, check_adapter_config
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.earlier_config_keys import write_earlier_keys
from tunesmith_torch.models.loading import LoadedBase, ignore_deprecation, no_progress_bars
from tunesmith_torch.models.model_folder import check_safetensors
from tunesmith_torch.runtime.distributed import all_gather_object, is_rank_0
from tunesmith_torch.untrusted.foreign_code import refuse_foreign_code

__all__ = ["ADAPTER_WEIGHTS", "artifact_format", "attach_adapter"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ARTIFACT_FOLDERS: dict[str, str] = {"adapter": "adapter", "model": "model"}


def save_artifact(
    job: Job[Any],
    adapted: AdaptedModel,
    template: Template,
    write_extra: Callable[[Path], None] | None = None,
) -> Artifact:
    """Commit the trained weights below ``job.out``: in ``adapter/`` or in ``model/``.

    ``write_extra`` writes further files into the folder before it is committed.
    """
    target = job.out / ARTIFACT_FOLDERS[adapted.format]

    def write(folder: Path) -> None:
        _write_weights(folder, adapted, _name_base(job, adapted))
        template.tokenizer.save_pretrained(folder)
        build_generation_config(adapted.base, template).save_pretrained(folder)
        (folder / "README.md").write_text(redact(_model_card(job, adapted)), encoding="utf-8")
        if write_extra is not None:
            write_extra(folder)

    if is_rank_0():
        commit_folder(target, write, {"format": adapted.format})
    all_gather_object(None)  # a barrier: from here on the other ranks may read the folder
    return Artifact(path=target, format=adapted.format)


def build_generation_config(base: LoadedBase, template: Template) -> GenerationConfig:
    """Return a config that decodes greedily and stops at every token that ends an answer."""
    tokenizer = template.tokenizer
    end_ids = sorted(template.end_ids)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_ids if len(end_ids) > 1 else end_ids[0],
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0],
    )


def artifact_format(folder: Path) -> Literal["adapter", "model"]:
    """Return the kind of artifact in a folder."""
    return "adapter" if (folder / "adapter_config.json").is_file() else "model"


def attach_adapter(base: LoadedBase, folder: Path, *, fused_kernels: bool = True) -> PeftModel:
    """Return the base model with an adapter read from disk, after checking that every tensor is
    used.

    ``fused_kernels``: compute adapters with :mod:`tunesmith_torch.kernels.fused_lora`.

    Raises:
        EnvironmentProblem: the adapter brings code, or makes PEFT download something.
        IntegrityError: the adapter lacks tensors of the model, or has tensors unknown to it.
    """
    check_adapter_folder(folder, base.model)
    with ignore_deprecation(), peft_import.without_unused_bitsandbytes(), adapter_errors(folder):
        config = PeftConfig.from_pretrained(str(folder))
        if fused_kernels and isinstance(config, LoraConfig):
            fused_lora.register_fused_lora(config, base.model)
        model = PeftModel.from_pretrained(
            base.model,
            str(folder),
            config=config,
            is_trainable=False,
            autocast_adapter_dtype=False,
            low_cpu_mem_usage=can_load_on_meta(config),
        )
    fused_lora.group_by_input(model)
    check_adapter(model, folder, "default")
    for parameter in model.parameters():  # not model.to: buffers, such as frequencies, keep theirs
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(base.model.dtype)
    return model.eval()


def check_adapter_folder(folder: Path, model: nn.Module) -> None:
    """Check an adapter's folder before PEFT reads it for this model.

    Without its safetensors file PEFT would read a pickled one, or ask a hub for it.

    Raises:
        EnvironmentProblem: the adapter brings code, or makes PEFT download something.
        IntegrityError: a file is missing or truncated, or the config is implausible.
    """
    refuse_foreign_code(folder)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise IntegrityError(f"{weights}: is missing, and no other format of weights is read")
    largest = max((n for shape in check_safetensors(weights) for n in shape), default=0)
    check_adapter_config(folder, [name for name, _ in model.named_modules()], largest)


@contextmanager
def adapter_errors(folder: Path) -> Iterator[None]:
    """Raise an error of PEFT inside the block as an :class:`~tunesmith.errors.IntegrityError`.

    Any error: with a config that is wrong, PEFT raises whatever the first wrong value leads to.
    """
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise IntegrityError(
            f"{folder}: the adapter cannot be loaded, {reason:.200}",
            hint="the adapter was trained on another base model, or its files were changed",
        ) from error


def check_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Compare the tensors of adapter ``name`` with those in the folder that it was read from.

    Raises:
        IntegrityError: the names differ, or a value is not finite.
    """
    # PEFT ignores unknown tensor names silently. The names that it would write are those it read.
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        differing = sorted({*file.keys()} ^ {*state})
        if differing:
            raise IntegrityError(
                f"{folder}: {len(differing)} tensors do not fit this base model, "
                f"the first is {differing[0]}",
                hint="the adapter was trained on another base model, or its file was changed",
            )
        for tensor_name, tensor in state.items():
            _check_tensor(folder, tensor_name, tensor, file.get_tensor(tensor_name))


def _check_tensor(folder: Path, name: str, read: Tensor, stored: Tensor) -> None:
    """Check that a tensor has finite values, and that PEFT has read it into the model."""
    if not stored.is_floating_point() or not stored.isfinite().all():
        raise IntegrityError(f"{folder}: {name} holds values that are not finite numbers")
    if read.is_meta or not torch.equal(read.cpu(), stored.to(read.dtype)):
        raise IntegrityError(
            f"{folder}: PEFT does not read {name} into this model",
            hint="train an adapter on other modules: technique.adapter.target_modules",
        )


def _name_base(job: Job[Any], adapted: AdaptedModel) -> str:
    """Return the name of the base model, with which others can find it.

    A model that was downloaded or converted is in a cache, whose path means nothing elsewhere: it
    has the name of the run file.
    """
    in_folder = not job.base_name or expand_home(job.base_name).is_dir()
    return str(adapted.base.folder) if in_folder else job.base_name


def _write_weights(folder: Path, adapted: AdaptedModel, base: str) -> None:
    if adapted.format == "adapter":
        # save_embedding_layers="auto" would query a hub about the base model's vocabulary.
        adapted.model.save_pretrained(folder, save_embedding_layers=False)
        _finish_adapter_config(folder / "adapter_config.json", base)
        return
    with no_progress_bars():
        adapted.model.save_pretrained(folder)
    write_earlier_keys(folder)


def _finish_adapter_config(path: Path, base: str) -> None:
    """Name the base model, and sort the targets: PEFT writes the path that it was loaded from, and
    sets in any order, while equal runs must give equal bytes.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "target_parameters"):
        if isinstance(config.get(key), list):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


_CARD_TEMPLATE: Callable[..., str] = """---
base_model: {base}
library_name: {library}
tags: [tunesmith, {technique}]
---

# {name}

Made with tunesmith by `{technique}` from `{base}` on {rows} rows of your own data.
`report.json` of its run describes how it was trained and what it was compared with.

{loading}
""".format

_LOADING_EXAMPLES = {
    "adapter": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```""",
    "model": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```""",
}


def _model_card(job: Job[Any], adapted: AdaptedModel) -> str:
    base = _name_base(job, adapted)
    folder = ARTIFACT_FOLDERS[adapted.format]
    return _CARD_TEMPLATE(
        base=base,
        library="peft" if adapted.format == "adapter" else "transformers",
        technique=job.technique,
        name=job.out.name,
        rows=len(job.train),
        loading=_LOADING_EXAMPLES[adapted.format].format(base=base, folder=folder),
    )
