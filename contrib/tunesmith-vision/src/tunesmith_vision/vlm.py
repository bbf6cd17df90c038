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
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
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
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.storage import MANIFEST, commit_folder
from tunesmith_torch.losses.selected_positions import get_decoder
from tunesmith_torch.models.loading import no_progress_bars
from tunesmith_torch.models.model_folder import check_model_folder, read_config
from tunesmith_torch.untrusted.foreign_code import refuse_foreign_code
from tunesmith_vision.families import VISION_FOLDER, Family, find_family
from tunesmith_vision.features import FeatureTable
from tunesmith_vision.grid_positions import GridPositions
from tunesmith_vision.image_blocks import ImageBlocks
from tunesmith_vision.images import Image
from tunesmith_vision.projectors import DividedProjector, divide_projector
from tunesmith_vision.template import Placeholder, check_template, wrap_template
from tunesmith_vision.towers import FEATURE, Tower, blank_picture

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
    placeholder = _find_placeholder(tokenizer, model.config, family)
    template = wrap_template(_find_template(tokenizer, source), placeholder)
    check_template(tokenizer, template, placeholder)
    tokenizer.chat_template = template
    language: Any = AutoModelForCausalLM.from_config(
        _build_text_config(model.config, family), dtype=model.dtype
    )
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


def _find_placeholder(tokenizer: Any, config: Any, family: Family) -> Placeholder:
    """Return what the chat template prints for an image, and what the processor makes of it."""
    token = tokenizer.convert_ids_to_tokens
    if family.kind != "blocks":
        return Placeholder(token(config.image_token_id))
    begin, end = token(config.boi_token_index), token(config.eoi_token_index)
    return Placeholder(begin, before=f"\n\n{begin}", after=f"{end}\n\n")


def _build_text_config(config: Any, family: Family) -> PreTrainedConfig:
    """Return the config of the plain language model."""
    text = copy.deepcopy(config.text_config)
    text.tie_word_embeddings = config.tie_word_embeddings
    if family.kind != "grid":
        return text
    # The language model of Qwen2-VL and Qwen2.5-VL is Qwen2; only its positions have dimensions.
    known = Qwen2Config().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    values = {name: value for name, value in text.to_dict().items() if name in known}
    rope = {k: v for k, v in text.rope_parameters.items() if k not in ("mrope_section", "type")}
    return Qwen2Config(**{**values, "rope_parameters": rope})


def _find_template(tokenizer: Any, source: Path) -> str:
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise EnvironmentProblem(
        f"{source}: has no chat template",
        hint="save the model's chat template as chat_template.jinja in its folder",
    )


class ModelTower(Tower):
    """The tower of a vision-language model that :func:`split_model` has divided.

    Its weights are read when they are needed, so that layouts are known without them.
    """

    is_pretrained = True

    def __init__(self, folder: Path) -> None:
        """Read the configs of the tower beside the language model in ``folder``."""
        self.folder = folder / VISION_FOLDER
        refuse_foreign_code(self.folder)
        config = read_config(self.folder)
        self.family = find_family(config, self.folder)
        self.name = str(config["model_type"])
        self.config = AutoConfig.from_pretrained(self.folder, **LOCAL)
        self.processor: Any = AutoImageProcessor.from_pretrained(
            self.folder, backend="pil", **LOCAL
        )
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, **LOCAL)

    @cached_property
    def base_digest(self) -> str:
        """Digest of the weights and of the configs.

        The config chooses the layer that features come from, and how they are combined.
        """
        digest = hashlib.sha256((self.folder / TOWER_FILE).read_bytes())
        for file in sorted(
            [self.folder / "config.json", *self.folder.glob("*processor_config.json")]
        ):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    @property
    def width(self) -> int:
        """Number of values in a feature."""
        return self._shape[1].width

    def count_weights(self) -> int:
        """Return the number of weights of the tower."""
        tower = self._shape[0].model.get_submodule(self.family.tower)
        return sum(parameter.numel() for parameter in tower.parameters())

    def count_projector_weights(self, text_width: int) -> int:
        """Return the number of weights of the projector."""
        return sum(parameter.numel() for parameter in self._shape[1].trained.parameters())

    @cached_property
    def _shape(self) -> tuple[Any, DividedProjector]:
        """The model and its divided projector without the values of their weights."""
        with torch.device("meta"):
            return _build_tower(self.folder, self.family)

    @property
    def module(self) -> nn.Module:
        """The tower without the projector."""
        module: nn.Module = self.model.model.get_submodule(self.family.tower)
        return module

    @cached_property
    def model(self) -> Any:
        """The model with the tower's weights, with a projector that only arranges features."""
        model, projector = _build_tower(self.folder, self.family)
        tensors = load_file(self.folder / TOWER_FILE)
        inner, prefix = model.model, f"{self.family.projector}."
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        self._projector = projector.trained
        self._projector.load_state_dict(
            {name.removeprefix(prefix): tensor.float() for name, tensor in own.items()}
        )
        rest = {name: tensor for name, tensor in tensors.items() if name not in own}
        wrong = inner.load_state_dict(rest, strict=False)
        missing = [n for n in wrong.missing_keys if not n.startswith(f"{self.family.language}.")]
        if missing or wrong.unexpected_keys:
            name = [*missing, *wrong.unexpected_keys][0]
            raise EnvironmentProblem(f"{self.folder}: does not fit its config: {name}")
        return model.eval().requires_grad_(False)

    @cached_property
    def _fixed(self) -> int:
        """Number of tokens of every image, computed without weights."""
        counts = set()
        for size in ((64, 64), (64, 320)):
            inputs = {n: x.to("meta") for n, x in self.prepare(blank_picture(*size)).items()}
            counts.add(len(_compute_features(self._shape[0], inputs)))
        if len(counts) > 1:
            raise EnvironmentProblem(f"{self.folder}: the number of tokens depends on the pixels")
        return counts.pop()

    def layout(self, image: Image) -> Sequence[int]:
        """Return the token ids of an image, as transformers' processor arranges them."""
        if self.family.kind == "grid":
            return [FEATURE] * math.prod(self.grid(image))
        if self.family.kind != "tiles":
            return [FEATURE] * self._fixed
        _, rows, columns = self.processor.get_number_of_image_patches(image.height, image.width)
        tokens = self.tokenizer
        token = tokens.convert_ids_to_tokens(self.config.image_token_id)
        fake, whole = "<fake_token_around_image>", "<global-img>"
        length = self._tile_length
        lines = [
            "".join(f"{fake}<row_{y}_col_{x}>{token * length}" for x in range(1, columns + 1))
            for y in range(1, rows + 1)
        ]
        text = "".join(f"{line}\n" for line in lines) + "\n" * bool(lines)
        text += f"{fake}{whole}{token * length}{fake}"
        ids = tokens(text, add_special_tokens=False)["input_ids"]
        image_id = self.config.image_token_id
        return [FEATURE if number == image_id else number for number in ids]

    def grid(self, image: Image) -> tuple[int, int]:
        """Return the rows and columns of tokens of an image, in families of the kind ``grid``.

        Raises:
            DataError: the image is too narrow for this model.
        """
        processor = self.processor
        side = processor.patch_size * processor.merge_size
        limits = processor.size["shortest_edge"], processor.size["longest_edge"]
        try:
            height, width = smart_resize(image.height, image.width, side, *limits)
        except ValueError as error:  # one side is more than 200 times as long as the other
            raise DataError(image.path, f"the model cannot read this image: {error}") from error
        return height // side, width // side

    def prepare_language_model(self, model: Any, table: FeatureTable) -> None:
        """Give the language model the positions or the attention of its family."""
        decoder = get_decoder(model)
        if self.family.kind == "grid":
            rope = self.config.text_config.rope_parameters
            GridPositions(decoder, table, rope["mrope_section"], self.grid)
        elif self.family.kind == "blocks":
            ImageBlocks(decoder, table)

    @property
    def _tile_length(self) -> int:
        config = self.config
        patches = config.vision_config.image_size // config.vision_config.patch_size
        return int(patches**2 / config.scale_factor**2)

    def prepare(self, picture: Picture) -> dict[str, Tensor]:
        """Return the pixels of one image, as the model's processor prepares them."""
        pictures = [[picture]] if self.family.kind == "tiles" else [picture]
        pixels = self.processor(images=pictures, return_tensors="pt")
        names = ("pixel_values", "pixel_attention_mask", "image_grid_thw")
        return {name: pixels[name] for name in names if name in pixels}

    def compute(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the features of one image before the projector, in fp32."""
        return _compute_features(self.model, inputs)

    def build_small(self, layers: int) -> tuple[Callable[[dict[str, Tensor]], Tensor], int]:
        """Return :meth:`compute` with random weights and few layers, and the number it omits."""
        model, _ = _build_tower(self.folder, self.family, layers)
        return partial(_compute_features, model.eval()), _omit_layers(
            copy.deepcopy(self.config), layers
        )

    def build_projector(self, text_width: int, scale: float, seed: int) -> nn.Module:
        """Return the model's own projector, trained before."""
        self.model  # noqa: B018 - reads the weights
        return copy.deepcopy(self._projector).float()


def _compute_features(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    found = model.get_image_features(**inputs).pooler_output
    return torch.cat([each.reshape(-1, each.shape[-1]) for each in found]).float().contiguous()


def _omit_layers(config: Any, layers: int) -> int:
    """Reduce the layers of a tower in a config, in place, and return how many are omitted.

    Nothing is omitted if features come from certain layers, which a smaller tower would not have.
    """
    chosen = getattr(config, "vision_feature_layer", -1)
    vision = config.vision_config
    name = "depth" if hasattr(vision, "depth") else "num_hidden_layers"
    if not isinstance(chosen, int) or not -layers <= chosen < 0:
        return 0
    omitted = max(0, int(getattr(vision, name)) - layers)
    setattr(vision, name, getattr(vision, name) - omitted)
    return omitted


def _build_tower(
    vision: Path, family: Family, layers: int | None = None
) -> tuple[Any, DividedProjector]:
    """Return a model with random weights and almost no language model, in fp32.

    Its projector only arranges features; the trained part of the projector is returned beside it.
    With ``layers``, the tower has at most so many.
    """
    config = AutoConfig.from_pretrained(vision, **LOCAL)
    if layers is not None:
        _omit_layers(config, layers)
    text = config.text_config
    text.num_hidden_layers, text.vocab_size, text.intermediate_size = 1, 8, 8
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    with torch.random.fork_rng(devices=[]):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    projector = divide_projector(model.model.get_submodule(family.projector), family)
    model.model.set_submodule(family.projector, projector.kept)
    return model, projector


def join_model(
    language: Any,
    projector: Mapping[str, Tensor],
    tower: Mapping[str, Tensor],
    folder: Path,
    out: Path,
) -> None:
    """Write a language model with its projector and tower as one folder for plain transformers.

    ``language`` has merged weights; ``folder`` is what :func:`split_model` wrote. ``tower`` has the
    weights that training changed, or none.

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
    tensors |= {f"{family.tower}.{name}": tensor for name, tensor in tower.items()}
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
