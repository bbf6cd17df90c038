"""CPU time of a request with and without the extension.

Run it as ``python benchmarks/serve_cpu.py RUN [REQUESTS]``.

Three servers take turns at every request: one without the extension, one with it, and a control
without it. The difference between the control and the first server is the noise of the measurement.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

PAIRS, REQUESTS = 5, int(sys.argv[2]) if len(sys.argv) > 2 else 100


def start(run: str, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server; return its process and address."""
    command = [sys.executable, "-P", "-m", "tunesmith", "serve", run, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", "tuned", "--trust-plugins", *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if " at http" in line:
            return process, line.rpartition(" at ")[2].strip()
    sys.exit("the server did not start")


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """Return the CPU time of all threads of a process so far."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def ask(address: str, number: int) -> None:
    """Send a request and wait for its answer."""
    messages = [{"role": "user", "content": f"Ticket {number}: radiator and heating are cold"}]
    body = json.dumps({"model": "tuned", "messages": messages, "max_tokens": 20})
    headers = {"Content-Type": "application/json", "X-User": f"user {number}"}
    url = f"{address}/v1/chat/completions"
    request = urllib.request.Request(url, body.encode(), headers)  # noqa: S310 - own server
    urllib.request.urlopen(request).read()  # noqa: S310


def main() -> None:
    """Measure all servers in turn."""
    with tempfile.TemporaryDirectory() as folder:
        options = Path(folder, "extensions.toml")
        options.write_text(f'[monitor]\nlog = "{folder}/traffic.jsonl"\n', encoding="utf-8")
        run = sys.argv[1]
        # On one core, other jobs of the machine disturb all servers alike.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        servers = [start(run), start(run, "--extensions", str(options)), start(run)]
        try:
            ratios = []
            for _ in range(PAIRS):
                before = [cpu_seconds(process) for process, _ in servers]
                for n in range(REQUESTS):
                    for place in range(len(servers)):  # each server is equally often the first
                        ask(servers[(n + place) % len(servers)][1], n)
                spent = [cpu_seconds(s[0]) - b for s, b in zip(servers, before, strict=True)]
                ratios.append([spent[1] / spent[0] - 1, spent[2] / spent[0] - 1])
                print(
                    f"{1e3 * spent[0] / REQUESTS:.2f} ms; with extension {ratios[-1][0]:+.1%}, "
                    f"control {ratios[-1][1]:+.1%}"
                )
            medians = [statistics.median(values) for values in zip(*ratios, strict=True)]
            print(f"median {medians[0]:+.1%}, control {medians[1]:+.1%}")
        finally:
            for process, _ in servers:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
