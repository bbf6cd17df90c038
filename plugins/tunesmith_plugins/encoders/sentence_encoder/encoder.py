"""Encode texts with the model, or read their vectors from the cache on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tunesmith.contracts import Progress
from tunesmith.plugins import cache_folder
from tunesmith_plugins.encoders.sentence_encoder import SentenceEncoderOptions, fetch_model
from tunesmith_plugins.encoders.sentence_encoder.vector_cache import VectorCache
from tunesmith_torch.models.sentence_encoder import SentenceEncoder, load_sentence_encoder
from tunesmith_torch.runtime.device import pick_device

VERSION = 1
"""Version of the computation; increase it when the same text gets a different vector."""
STORED_TEXTS = 1_000
"""Number of new texts after which their vectors are stored."""


class CachedEncoder:
    """A sentence encoder whose model is only loaded for texts that are not in the cache."""

    def __init__(self, options: SentenceEncoderOptions) -> None:
        self._options = options
        self._folder = fetch_model(options.model)

    def encode(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return a vector of length 1 for each text: (texts, dimensions)."""
        vectors = self._cache.read(texts)
        new = sorted(set(texts) - vectors.keys())
        for start in range(0, len(new), STORED_TEXTS):
            chunk = new[start : start + STORED_TEXTS]
            found = dict(zip(chunk, self._model.encode(chunk), strict=True))
            self._cache.write(found)
            vectors.update(found)
            if progress is not None:
                progress(len(texts) - len(new) + start + len(chunk))
        return np.stack([vectors[text] for text in texts]) if texts else np.zeros((0, 0), "f4")

    @cached_property
    def _model(self) -> SentenceEncoder:
        device = pick_device(self._options.device)
        return load_sentence_encoder(self._folder, device, max_length=self._options.max_length)

    @cached_property
    def _cache(self) -> VectorCache:
        """Open the cache. Its keys are hashes over all model files, which takes 0.1 s for 90 MB."""
        digest = hashlib.sha256(f"{VERSION} {self._options.max_length}".encode())
        for path in sorted(self._folder.iterdir()):
            if path.suffix in (".safetensors", ".json", ".txt", ".model"):
                with path.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                digest.update(f"\n{path.name} {content}".encode())
        return VectorCache(cache_folder() / "vectors.sqlite", digest.digest())
