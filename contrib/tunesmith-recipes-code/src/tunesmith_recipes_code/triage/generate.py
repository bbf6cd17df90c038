"""Generate the rows of this recipe: ``python generate.py`` writes train.jsonl and test.jsonl.

A row is the last line of an invented build log and the cause of the failure. Test lines are other
messages than training lines, about other packages and files.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SEED = 29
ROWS = {"train": 25, "test": 20}
"""Rows of each cause."""
NAMES = {
    "train": ("billing", "search", "gateway", "orders", "mailer", "catalog"),
    "test": ("invoices", "router", "inventory", "notifier"),
}
LINES = {
    "dependency": {
        "train": (
            "ERROR: Could not find a version that satisfies the requirement {name}-core==4.{n}",
            "ModuleNotFoundError: No module named '{name}_utils'",
            "npm ERR! 404 Not Found - GET @acme/{name}-client",
            "error: failed to select a version for `{name}-api`",
            "Cannot resolve com.acme:{name}:1.{n}",
        ),
        "test": (
            "ImportError: cannot import name 'Client' from '{name}'",
            "ResolutionImpossible: {name} 2.{n} conflicts with the pinned versions",
            "package {name}-proto is not in the registry",
            "yarn: Couldn't find any versions for {name} that matches ^{n}.0.0",
        ),
    },
    "test failure": {
        "train": (
            "FAILED tests/test_{name}.py::test_total - AssertionError: assert {n} == 12",
            "{n} failed, 240 passed in 31.2s",
            "Expected status 200 but received 50{n} in {name}.spec.ts",
            "--- FAIL: Test{name} (0.0{n}s)",
            "AssertionError: lists differ in test_{name}",
        ),
        "test": (
            "{name}_test.go:{n}: got false, want true",
            "Tests: {n} failed, 87 passed, 88 total",
            "org.junit.ComparisonFailure: expected:<{n}> but was:<0> in {name}",
            "E   assert response.json() == expected  (test_{name}_{n})",
        ),
    },
    "formatting": {
        "train": (
            "would reformat src/{name}.py",
            "src/{name}.ts: {n} problems (indent, semi)",
            "line too long ({n}0 > 100 characters) in {name}.py",
            "gofmt: {name}.go needs formatting",
            "trailing whitespace in {name}.yaml",
        ),
        "test": (
            "Code style issues found in {name}.js. Run Prettier to fix.",
            "E30{n} expected 2 blank lines, {name}.py",
            "imports are not sorted in {name}/__init__.py",
            "rustfmt: Diff in {name}.rs at line {n}",
        ),
    },
    "timeout": {
        "train": (
            "The job exceeded the maximum execution time of {n}0 minutes",
            "Timeout of 5000ms exceeded in {name}",
            "Error: operation timed out while waiting for {name}",
            "context deadline exceeded ({name})",
            "no output for {n} minutes, killing {name}",
        ),
        "test": (
            "{name} was canceled because it ran longer than {n} hours",
            "Timed out after {n}0s: {name} did not become ready",
            "ReadTimeoutError: {name} read timed out. (read timeout={n})",
            "watchdog: {name} has been stuck for {n}0s",
        ),
    },
    "memory": {
        "train": (
            "Killed process {n}41 ({name}) out of memory",
            "JavaScript heap out of memory in {name}",
            "java.lang.OutOfMemoryError: Java heap space ({name})",
            "MemoryError: unable to allocate {n} GiB",
            "container {name} exited with code 137 (OOMKilled)",
        ),
        "test": (
            "std::bad_alloc while linking {name}",
            "fatal: {name} ran out of memory after {n} GB",
            "CUDA error: not enough memory for {n} GiB in {name}",
            "cc1plus: cannot allocate memory for {name}",
        ),
    },
    "network": {
        "train": (
            "curl: (6) Could not resolve host: {name}.acme.test",
            "ECONNREFUSED 10.0.0.{n}:443 ({name})",
            "Connection reset by peer while downloading {name}",
            "TLS handshake failed with {name}.acme.test",
            "503 Service Unavailable from the mirror of {name}",
        ),
        "test": (
            "getaddrinfo ENOTFOUND {name}.acme.test",
            "ssh: connect to host {name} port 2{n}: No route to host",
            "certificate of {name}.acme.test has expired",
            "proxy refused the connection to {name}",
        ),
    },
    "permission": {
        "train": (
            "denied: access forbidden to registry.acme.test/{name}",
            "Permission denied: '/var/lib/{name}'",
            "403 Forbidden: token lacks the scope write:{name}",
            "remote: You are not allowed to push to protected branch {name}",
            "fatal: Authentication failed for {name}.git",
        ),
        "test": (
            "401 Unauthorized while publishing {name}",
            "EACCES: cannot open '/etc/{name}/key'",
            "The role ci-{n} may not read the secret {name}",
            "invalid credentials for the bucket {name}",
        ),
    },
    "syntax": {
        "train": (
            "SyntaxError: invalid syntax ({name}.py, line {n})",
            "error: expected ';' before '}}' token in {name}.cpp",
            "Unexpected token '<' in {name}.js:{n}",
            "yaml: line {n}: mapping values are not allowed ({name}.yml)",
            "error[E0425]: cannot find value `{name}` in this scope",
        ),
        "test": (
            "IndentationError: unexpected indent in {name}.py, line {n}",
            "{name}.java:{n}: error: class, interface or enum expected",
            "undefined: {name} at main.go:{n}",
            "JSON parse error: unterminated string in {name}.json",
        ),
    },
}


def main() -> None:
    """Write the rows next to this file."""
    rng = random.Random(SEED)
    for part, count in ROWS.items():
        rows: dict[str, dict[str, str]] = {}
        for cause, lines in LINES.items():
            wanted = len(rows) + count
            while len(rows) < wanted:
                name, n = rng.choice(NAMES[part]), rng.randrange(2, 10)
                prompt = rng.choice(lines[part]).format(name=name, n=n)
                rows.setdefault(prompt, {"prompt": prompt, "completion": cause})
        chosen = [*rows.values()]
        rng.shuffle(chosen)
        text = "".join(json.dumps(row) + "\n" for row in chosen)
        Path(__file__).with_name(f"{part}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
