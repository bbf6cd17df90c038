"""The task file of the README, and variants of it."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def write_task(folder: Path, **replaced: str) -> Path:
    """Write the task file of the README; ``replaced`` names parts to replace by other code."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in replaced.items():
        assert f"{name}=" in code
        code = re.sub(rf"{name}=[a-z]+\(\)", text, code)
    path = folder / "capitals.py"
    path.write_text(code, encoding="utf-8")
    return path
