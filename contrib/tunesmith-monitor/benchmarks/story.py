"""The whole story, with a model that trains in a second: ``python benchmarks/story.py``.

Run, serve, traffic drifts, alarm, label, retrain, gate, promote, roll back. Each step is a command;
its output is printed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tunesmith.testing import ngram
from tunesmith_monitor.serve_extension import hash_user

TOPICS = {
    "heating": ("heating", "radiator", "boiler", "cold"),
    "network": ("internet", "router", "wifi", "slow"),
    "payroll": ("salary", "payslip", "bonus", "late"),
}
PARKING = {"parking": ("parking", "garage", "badge", "barrier")}
RUN_FILE = """
[model]
base = "base"
[data]
use = "jsonl"
train = "train.jsonl"
validation = "validation.jsonl"
test = "test.jsonl"
[technique]
use = "ngram"
[[evaluators]]
use = "exact-match"
[[evaluators]]
use = "review"
precision = 0.8
[plugins]
files = ["{plugin}"]
"""


def make_rows(topics: dict[str, tuple[str, ...]], count: int, seed: int) -> list[dict[str, str]]:
    """Return requests of these topics with their right answers; one in ten is labeled at random."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        label = rng.choice([*topics])
        a, b = rng.sample(topics[label], 2)
        prompt = f"{rng.choice(('Case', 'Ticket', 'Room'))} {rng.randrange(1000)}: {a} and {b}"
        answer = rng.choice([*topics]) if rng.random() < 0.1 else label
        rows.append({"prompt": prompt, "completion": answer})
    return rows


def write(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def tunesmith(folder: Path, *arguments: str, accepted: tuple[int, ...] = (0,)) -> str:
    """Run a command, print it with its output, and return the output."""
    print(f"\n$ tunesmith {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-P", "-m", "tunesmith", "-q", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(done.stdout.strip()[:3_000])
    print(f"[exit code {done.returncode}]", flush=True)
    if done.returncode not in accepted:
        sys.exit(done.stderr[-3_000:])
    return done.stdout


def answer(folder: Path, rows: list[dict[str, str]], first: int) -> list[dict[str, object]]:
    """Let the run in service answer requests, and return the lines that the server would log."""
    import tunesmith_python.runs as runs

    run = runs.open_run(folder / "runs" / "service", trust_plugins=True)
    policy, model = run.review(), run.model()
    found = policy.answer(model, [row["prompt"] for row in rows], 20)
    return [
        {"id": f"{first + n}", "user": hash_user(f"{n % 50}", "1"), "model": "tuned",
         "prompt": row["prompt"], "answer": f.text, "confidence": f.confidence,
         **({"right": float(f.text == row["completion"])} if n % 10 == 0 else {})}
        for n, (row, f) in enumerate(zip(rows, found, strict=True))
    ]  # fmt: skip


def main() -> None:
    """Tell the story."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ngram.save_ngram_model(folder / "base")
        for part, count, seed in (("train", 400, 0), ("validation", 100, 1), ("test", 300, 2)):
            write(folder / f"{part}.jsonl", make_rows(TOPICS, count, seed))
        (folder / "run.toml").write_text(RUN_FILE.format(plugin=ngram.__file__), encoding="utf-8")
        tunesmith(folder, "run", "run.toml", "--out", "runs/tickets-1")
        (folder / "runs" / "service").symlink_to("tickets-1")
        traffic = folder / "traffic.jsonl"
        monitor = ("monitor", "runs/service", "--traffic", "traffic.jsonl")
        print("\nAn ordinary month: 1,000 requests, every tenth answer is checked.")
        lines = answer(folder, make_rows(TOPICS, 1_000, 3), 0)
        write(traffic, lines)
        tunesmith(folder, *monitor, "--run-length", "20000")
        print("\nA car park opens: 30 % of the next 1,000 requests are about parking.")
        mixed = [*make_rows(TOPICS, 700, 4), *make_rows(PARKING, 300, 5)]
        random.Random(0).shuffle(mixed)
        write(traffic, [*lines, *answer(folder, mixed, 1_000)])
        tunesmith(folder, *monitor, "--label", "to-label.jsonl", accepted=(10, 11))
        tunesmith(folder, "retrain", "runs/service", accepted=(0, 10))
        print("\nPeople label 300 of the requests.")
        write(folder / "labeled.jsonl", mixed[:300])
        rows = ("--rows", "labeled.jsonl")
        tunesmith(folder, "retrain", "runs/service", *rows, accepted=(0, 10))
        tunesmith(folder, "retrain", "runs/service", *rows, "--go", accepted=(0, 6))
        print("in service:", (folder / "runs" / "service").resolve().relative_to(folder.resolve()))
        tunesmith(folder, "retrain", "runs/service", "--rollback", accepted=(0, 2))
        print("in service:", (folder / "runs" / "service").resolve().relative_to(folder.resolve()))


if __name__ == "__main__":
    main()
