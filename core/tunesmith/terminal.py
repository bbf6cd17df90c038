"""Capabilities of a terminal: color, pictures, live display, Unicode."""

from __future__ import annotations

import os
from typing import TextIO


def supports_color(stream: TextIO) -> bool:
    """Return True if text on the stream may be colored.

    ``NO_COLOR`` takes precedence over ``FORCE_COLOR``. If neither is set, the stream must be a
    terminal, ``TERM`` must not be ``dumb`` or empty, and ``CI`` must be unset, 0 or false.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_interactive(stream)


def supports_pictures(stream: TextIO) -> bool:
    """Return True if a picture can be drawn with block characters of any color on the stream."""
    has_all_colors = os.environ.get("COLORTERM", "") in {"truecolor", "24bit"}
    return has_all_colors and supports_color(stream) and supports_unicode(stream)


def supports_live_display(stream: TextIO) -> bool:
    """Return True if lines on the stream can be overwritten, as for a progress bar."""
    return not os.environ.get("NO_COLOR") and _is_interactive(stream)


def supports_unicode(stream: TextIO) -> bool:
    """Return True if the stream's encoding includes block characters."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def _is_interactive(stream: TextIO) -> bool:
    in_ci = os.environ.get("CI", "").lower() not in {"", "0", "false"}
    return stream.isatty() and os.environ.get("TERM", "") not in {"dumb", ""} and not in_ci
