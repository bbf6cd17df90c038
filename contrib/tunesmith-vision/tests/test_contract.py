"""The plugin passes the conformance kit of tunesmith."""

from __future__ import annotations

import json
from typing import Any

from pictures import save_pictures
from training import split_folder, temporary

from tunesmith.testing import parametrize_checks
from tunesmith_vision import PLUGIN

VISION: dict[str, Any] = {
    "learning_rate": 0.01,
    "epochs": 10.0,
    "batch_size": 4,
    "precision": "fp32",
}


def write_rows() -> str:
    folder = save_pictures(temporary())
    lines = [
        json.dumps({"prompt": f"<image>{n}?", "completion": name, "images": [f"{name}.png"]})
        for n in range(5)
        for name in ("red", "green")
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / "rows.jsonl")


def write_broken() -> str:
    path = temporary() / "broken.jsonl"
    row = {"prompt": "<image>?", "completion": "red", "images": ["nowhere.png"]}
    path.write_text(json.dumps(row) + "\n")
    return str(path)


@parametrize_checks(
    PLUGIN,
    model=split_folder,
    samples={"vision": VISION, "images": {"train": write_rows()}},
    broken={"images": {"train": write_broken()}},
)
def test_contract(check: Any) -> None:
    check()
