"""Save trained weights in standard formats, and load them again.

An adapter is saved as a PEFT folder, a fully trained model as a transformers folder. Both contain
safetensors weights, the tokenizer with its chat template, and a ``generation_config.json`` that
stops at the token that ends an answer. A folder is committed atomically, with a manifest.
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
from tunesmith.text import format_count, redact
from tunesmith_torch.data.templates import Template
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapter_config import can_load_on_meta, check_adapter_config
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.legacy_config_keys import write_legacy_config_keys
from tunesmith_torch.models.loading import LoadedBase, ignore_deprecation, no_progress_bars
from tunesmith_torch.models.model_folder import check_safetensors
from tunesmith_torch.runtime.distributed import all_gather_object, is_rank_0
from tunesmith_torch.untrusted.foreign_code import refuse_foreign_code

__all__ = ["ADAPTER_WEIGHTS_FILE", "attach_adapter", "detect_artifact_format"]

ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
ARTIFACT_FOLDERS: dict[str, str] = {"adapter": "adapter", "model": "model"}


def save_artifact(
    job: Job[Any],
    adapted: AdaptedModel,
    template: Template,
    write_extra: Callable[[Path], None] | None = None,
) -> Artifact:
    """Commit the trained weights to the folder ``adapter`` or ``model`` in ``job.out``.

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
    all_gather_object(None)  # a barrier: after it, the other ranks may read the folder
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


def detect_artifact_format(folder: Path) -> Literal["adapter", "model"]:
    """Return the format of the artifact in a folder."""
    return "adapter" if (folder / "adapter_config.json").is_file() else "model"


def attach_adapter(base: LoadedBase, folder: Path, *, fused_kernels: bool = True) -> PeftModel:
    """Load an adapter into the base model, and check that all tensors match.

    ``fused_kernels``: compute adapters with :mod:`tunesmith_torch.kernels.fused_lora`.

    Raises:
        EnvironmentProblem: the adapter contains code, or would make PEFT download something.
        IntegrityError: the tensors of the adapter do not match the model.
    """
    check_adapter_folder(folder, base.model)
    with (
        ignore_deprecation(),
        peft_import.without_unused_bitsandbytes(),
        convert_adapter_errors(folder),
    ):
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
    check_loaded_adapter(model, folder, "default")
    # Not model.to, because buffers such as rotary frequencies must keep their format.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(base.model.dtype)
    return model.eval()


def check_adapter_folder(folder: Path, model: nn.Module) -> None:
    """Check an adapter's folder before PEFT reads it for this model.

    If the safetensors file were missing, PEFT would read a pickled file or query a hub.

    Raises:
        EnvironmentProblem: the adapter contains code, or would make PEFT download something.
        IntegrityError: a file is missing or truncated, or the config is implausible.
    """
    refuse_foreign_code(folder)
    weights = folder / ADAPTER_WEIGHTS_FILE
    if not weights.is_file():
        what = "the file is missing; adapters are only read from safetensors files"
        raise IntegrityError(f"{weights}: {what}")
    largest = max((n for shape in check_safetensors(weights) for n in shape), default=0)
    check_adapter_config(folder, [name for name, _ in model.named_modules()], largest)


@contextmanager
def convert_adapter_errors(folder: Path) -> Iterator[None]:
    """Convert PEFT's errors inside the block to an :class:`~tunesmith.errors.IntegrityError`.

    All exceptions are converted, because PEFT may raise any kind for a wrong config value.
    """
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise IntegrityError(
            f"{folder}: the adapter cannot be loaded: {reason:.200}",
            hint="the adapter was trained on another base model, or its files were changed",
        ) from error


def check_loaded_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Compare the tensors of adapter ``name`` with those in the folder it was read from.

    Raises:
        IntegrityError: names or values differ, or a value is not finite.
    """
    # PEFT silently ignores unknown tensor names, but it writes exactly the names that it has read.
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as file:
        differing = sorted({*file.keys()} ^ {*state})
        if differing:
            raise IntegrityError(
                f"{folder}: does not match this base model in "
                f"{format_count(len(differing), 'tensor')}; the first is {differing[0]}",
                hint="the adapter was trained on another base model, or its file was changed",
            )
        for tensor_name, tensor in state.items():
            _check_tensor(folder, tensor_name, tensor, file.get_tensor(tensor_name))


def _check_tensor(folder: Path, name: str, read: Tensor, stored: Tensor) -> None:
    """Check that a tensor has finite values, and that PEFT has read it into the model."""
    if not stored.isfinite().all():
        raise IntegrityError(
            f"{folder}: {name} contains values that are not finite numbers",
            hint="restore the file, or train again with a lower learning rate",
        )
    if read.is_meta or not torch.equal(read.cpu(), stored.to(read.dtype)):
        raise IntegrityError(
            f"{folder}: PEFT has not read {name} into this model",
            hint="train an adapter on other modules: technique.adapter.target_modules",
        )


def _name_base(job: Job[Any], adapted: AdaptedModel) -> str:
    """Return a name of the base model that works on other machines.

    A downloaded or converted model is in a cache, whose path means nothing on other machines, so
    its name in the run file is used.
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
    write_legacy_config_keys(folder)


def _finish_adapter_config(path: Path, base: str) -> None:
    """Write the base model's name into the adapter's config, and sort the target modules.

    PEFT writes the path of the base model, and sets in any order. But equal runs must give equal
    bytes.
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
`README.md` in the run folder has its scores and limits, and `tunesmith push` uploads that card.

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
