"""Read the load and the memory of this machine."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from tunesmith.text import format_bytes


def describe_machine(memory_file: Path = Path("/proc/meminfo")) -> str:
    """Return the load and the used memory of this machine, as far as they are known."""
    parts = []
    with suppress(OSError, AttributeError):
        parts.append(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with suppress(OSError, ValueError, KeyError):
        found = re.findall(r"^(\w+): +(\d+) kB", memory_file.read_text("ascii"), re.MULTILINE)
        sizes = {name: int(size) * 1024 for name, size in found}
        used = format_bytes(sizes["MemTotal"] - sizes["MemAvailable"])
        parts.append(f"memory {used} of {format_bytes(sizes['MemTotal'])}")
    return ", ".join(parts)
