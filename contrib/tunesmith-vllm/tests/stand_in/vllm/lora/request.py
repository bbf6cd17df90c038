"""Names an adapter that answers a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """An adapter."""

    name: str
    number: int
    path: str
