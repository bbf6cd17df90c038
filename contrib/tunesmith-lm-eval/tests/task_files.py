"""Task files of the harness with local data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

TOWNS = ("Paris", "Rome", "Madrid", "Lisbon", "Vienna")
LANDS = ("France", "Italy", "Spain", "Portugal", "Austria")


def write_task(folder: Path, *, rows: int = 20, **changes: Any) -> Path:
    """Write a task of choices and its data; ``changes`` replace keys of the task file."""
    data = folder / "capitals.jsonl"
    lines = [
        {
            "country": f"{LANDS[n % 5]} {n}",
            "choices": [*TOWNS],
            "label": n % 5,
            "town": TOWNS[n % 5],
        }
        for n in range(rows)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    config: dict[str, Any] = {
        "task": "capitals",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "The capital of {{country}} is",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        **changes,
    }
    path = folder / f"{config['task']}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def write_generation(folder: Path, **changes: Any) -> Path:
    """Write a task whose answers are generated until a line break."""
    settings: dict[str, Any] = {"until": ["\n", " is"], "max_gen_toks": 6}
    return write_task(
        folder,
        task="towns",
        output_type="generate_until",
        doc_to_text="Land: {{country}}\nTown:",
        doc_to_target=" {{town}}",
        doc_to_choice=None,
        generation_kwargs={**settings, **changes},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
