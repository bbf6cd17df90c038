"""Vision-language models of transformers, taken apart and put together again.

:func:`split_model` divides a model folder into a plain language model, which everything in
tunesmith can use, and the tower beside it. The technique then trains on the language model, with
the features of :class:`ModelTower`. :func:`join_model` merges the result into a folder that plain
transformers loads::

    VLM folder  --split-->  language model + vision/  --run-->  adapter + projector
                                                                       |
    VLM folder, trained  <----------------- join ----------------------+

:mod:`tunesmith_vision.families` lists the supported types of models.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.storage import MANIFEST, commit_folder
from tunesmith_torch.models.loading import no_progress_bars
from tunesmith_torch.models.model_folder import check_model_folder, read_config
from tunesmith_torch.untrusted.foreign_code import refuse_foreign_code
from tunesmith_vision.families import VISION_FOLDER, find_family
from tunesmith_vision.images import Image
from tunesmith_vision.template import check_template, wrap_template
from tunesmith_vision.towers import FEATURE, Tower

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["ModelTower", "join_model", "split_model"]

TOWER_FILE = "vision.safetensors"
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def split_model(source: Path, out: Path) -> None:
    """Write a model folder as a language model, with the tower and its projector in ``vision/``.

    Raises:
        UsageError: ``out`` exists, or the family or the chat template is not supported.
        EnvironmentProblem: the folder is incomplete, or needs its own code.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already", hint="choose another folder")
    refuse_foreign_code(source)
    family = find_family(read_config(source), source)
    check_model_folder(source)
    tokenizer = AutoTokenizer.from_pretrained(source, **LOCAL)
    with no_progress_bars():
        model: Any = AutoModelForImageTextToText.from_pretrained(
            source, dtype="auto", use_safetensors=True, **LOCAL
        )
    image_token = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
    template = wrap_template(_find_template(tokenizer, source), image_token)
    check_template(tokenizer, template, image_token)
    tokenizer.chat_template = template
    text_config = copy.deepcopy(model.config.text_config)
    text_config.tie_word_embeddings = model.config.tie_word_embeddings
    language: Any = AutoModelForCausalLM.from_config(text_config, dtype=model.dtype)
    language.model.load_state_dict(model.model.get_submodule(family.language).state_dict())
    language.lm_head.load_state_dict(model.lm_head.state_dict())
    language.generation_config = model.generation_config
    vision = {
        name: tensor.contiguous()
        for name, tensor in model.model.state_dict().items()
        if not name.startswith(f"{family.language}.")
    }

    def write(staging: Path) -> None:
        with no_progress_bars():
            language.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        folder = staging / VISION_FOLDER
        folder.mkdir()
        save_file(vision, folder / TOWER_FILE, metadata={"format": "pt"})
        for file in source.iterdir():  # configs, tokenizer and processor, for join_model
            is_known = file.suffix in (".json", ".jinja", ".txt", ".model")
            is_index = file.name == MANIFEST or file.name.endswith(".index.json")
            if file.is_file() and is_known and not is_index:
                shutil.copyfile(file, folder / file.name)

    # At once, because a language model without its tower would be given another one.
    commit_folder(out, write, {"format": "divided"})


def _find_template(tokenizer: Any, source: Path) -> str:
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise EnvironmentProblem(
        f"{source}: has no chat template",
        hint="save the model's chat template as chat_template.jinja in its folder",
    )


class ModelTower(Tower):
    """The tower of a vision-language model that :func:`split_model` has divided."""

    is_pretrained = True

    def __init__(self, folder: Path) -> None:
        """Read the tower beside the language model in ``folder``."""
        vision = folder / VISION_FOLDER
        refuse_foreign_code(vision)
        config = read_config(vision)
        self.family = find_family(config, vision)
        self.name = str(config["model_type"])
        digest = hashlib.sha256((vision / TOWER_FILE).read_bytes())
        # The config chooses the layer that features come from, and how they are combined.
        for file in sorted([vision / "config.json", *vision.glob("*processor_config.json")]):
            digest.update(file.read_bytes())
        self.digest = digest.hexdigest()
        self.processor: Any = AutoImageProcessor.from_pretrained(vision, backend="pil", **LOCAL)
        self.tokenizer = AutoTokenizer.from_pretrained(vision, **LOCAL)
        self.model = _build_tower(vision)
        tensors = load_file(vision / TOWER_FILE)
        prefix = f"{self.family.projector}."
        self._projector_state = {
            name.removeprefix(prefix): tensor.float()
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        inner = self.model.model
        self._projector = inner.get_submodule(self.family.projector)
        inner.set_submodule(self.family.projector, nn.Identity())
        rest = {name: t for name, t in tensors.items() if not name.startswith(prefix)}
        wrong = inner.load_state_dict(rest, strict=False)
        missing = [n for n in wrong.missing_keys if not n.startswith(f"{self.family.language}.")]
        if missing or wrong.unexpected_keys:
            name = [*missing, *wrong.unexpected_keys][0]
            raise EnvironmentProblem(f"{vision}: does not fit its config: {name}")
        self.model.eval().requires_grad_(False)
        blank = [self.encode(_blank(*size)) for size in ((64, 64), (64, 320))]
        self.width = blank[0].shape[1]
        self._fixed = len(blank[0])
        if not self.family.tiles and len(blank[0]) != len(blank[1]):
            raise EnvironmentProblem(f"{vision}: the number of tokens depends on the pixels")

    def layout(self, image: Image) -> Sequence[int]:
        """Return the token ids of an image, as transformers' processor arranges them."""
        if not self.family.tiles:
            return [FEATURE] * self._fixed
        _, rows, columns = self.processor.get_number_of_image_patches(image.height, image.width)
        tokens = self.tokenizer
        token = tokens.convert_ids_to_tokens(self.model.config.image_token_id)
        fake, whole = "<fake_token_around_image>", "<global-img>"
        length = self._tile_length
        lines = [
            "".join(f"{fake}<row_{y}_col_{x}>{token * length}" for x in range(1, columns + 1))
            for y in range(1, rows + 1)
        ]
        text = "".join(f"{line}\n" for line in lines) + "\n" * bool(lines)
        text += f"{fake}{whole}{token * length}{fake}"
        ids = tokens(text, add_special_tokens=False)["input_ids"]
        image_id = self.model.config.image_token_id
        return [FEATURE if number == image_id else number for number in ids]

    @property
    def _tile_length(self) -> int:
        config = self.model.config
        patches = config.vision_config.image_size // config.vision_config.patch_size
        return int(patches**2 / config.scale_factor**2)

    @torch.no_grad()
    def encode(self, picture: Picture) -> Tensor:
        """Return the features of one image before the projector, in fp32."""
        pictures = [[picture]] if self.family.tiles else [picture]
        pixels = self.processor(images=pictures, return_tensors="pt")
        names = ("pixel_values", "pixel_attention_mask")
        inputs = {name: pixels[name] for name in names if name in pixels}
        found = self.model.get_image_features(**inputs).pooler_output
        return torch.cat([each.reshape(-1, each.shape[-1]) for each in found]).float().contiguous()

    def build_projector(self, text_width: int, scale: float, seed: int) -> nn.Module:
        """Return the model's own projector, trained before."""
        projector: nn.Module = copy.deepcopy(self._projector).float()
        projector.load_state_dict(self._projector_state)
        return projector


def _build_tower(vision: Path) -> Any:
    """Return the model with random weights and almost no language model, in fp32."""
    config = AutoConfig.from_pretrained(vision, **LOCAL)
    text = config.text_config
    text.num_hidden_layers, text.vocab_size, text.intermediate_size = 1, 8, 8
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    with torch.random.fork_rng(devices=[]):
        return AutoModelForImageTextToText.from_config(config, dtype=torch.float32)


def _blank(width: int, height: int) -> Picture:
    import PIL.Image

    return PIL.Image.new("RGB", (width, height), (127, 127, 127))


def join_model(language: Any, projector: Mapping[str, Tensor], folder: Path, out: Path) -> None:
    """Write a language model with its projector and tower as one folder for plain transformers.

    ``language`` has merged weights; ``folder`` is what :func:`split_model` wrote.

    Raises:
        UsageError: ``out`` exists, or ``folder`` has no tower.
    """
    vision = folder / VISION_FOLDER
    if out.exists():
        raise UsageError(f"{out}: exists already", hint="choose another folder")
    if not vision.is_dir():
        raise UsageError(
            f"{folder}: is not a divided vision-language model",
            hint="only models of `tunesmith vision split` can be joined; the README shows how to "
            "load others",
        )
    family = find_family(read_config(vision), vision)
    config = AutoConfig.from_pretrained(vision, **LOCAL)
    with torch.random.fork_rng(devices=[]):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=language.dtype)
    tensors = load_file(vision / TOWER_FILE)
    tensors |= {f"{family.projector}.{name}": tensor for name, tensor in projector.items()}
    tensors |= {
        f"{family.language}.{name}": tensor for name, tensor in language.model.state_dict().items()
    }
    model.model.load_state_dict(tensors)
    model.lm_head.load_state_dict(language.lm_head.state_dict())

    def write(staging: Path) -> None:
        with no_progress_bars():
            model.save_pretrained(staging)
        for file in vision.iterdir():
            if file.suffix != ".safetensors" and file.name != "config.json":
                shutil.copyfile(file, staging / file.name)

    commit_folder(out, write, {"format": "joined"})
