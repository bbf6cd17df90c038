"""Measure what exports of one run cost: by engine and format, accuracy, size and speed.

``python -m tests.benchmarks.exports RUN --out DIR [--only gguf onnx] [--no-speed]`` exports the
run's model to each format whose exporter is installed, with all checks of ``tunesmith export``, and
prints a table: the largest difference of a log-probability and the mean KL divergence on test
rows, the run's own metric on up to 32 of them before and after, with the interval of the paired
difference, the size of the files, the seconds in which the engine opens them, and the tokens that
it generates in a second, one answer at a time. ``DIR/exports.json`` has the same. What does not
pass, or is not installed, has its reason in the table. Speeds mean something on an idle machine;
``OMP_NUM_THREADS`` is the number of threads of every engine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks import machine

from tunesmith import api
from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.errors import TunesmithError
from tunesmith.offers import ExporterOffer
from tunesmith.options import from_table
from tunesmith.records import Prompt, last_exchange
from tunesmith_plugins.commands.export.trained import find_trained_model
from tunesmith_torch.export.contract import Engine
from tunesmith_torch.export.engine_model import EngineModel
from tunesmith_torch.export.export_run import (
    Export,
    PreparedModel,
    TrainedModel,
    compare_metric,
    export_prepared,
    prepare_model,
)
from tunesmith_torch.export.reference import is_text_only

FORMATS: tuple[tuple[str, dict[str, str]], ...] = (
    ("safetensors", {"dtype": "float32"}),
    ("safetensors", {"dtype": "bfloat16"}),
    *(("gguf", {"quantize": name}) for name in ("f32", "f16", "q8_0", "q4_k_m")),
    *(("onnx", {"quantize": name}) for name in ("f32", "int8", "int4")),
    *(("mlx", {"quantize": name}) for name in ("f32", "f16", "int8", "int4")),
    *(("openvino", {"quantize": name}) for name in ("f32", "f16")),
    *(("vllm", {"dtype": name}) for name in ("float32", "bfloat16")),
)
ANSWERS, NEW_TOKENS = 4, 48
"""Answers by which the speed is measured, and tokens of each, at most."""


def measure_run(run: Path, out: Path, only: Sequence[str], *, with_speed: bool) -> dict[str, Any]:
    """Export a run's model to every format, and return what was measured."""
    folder, plan, catalog = api.load_run(run)
    rows = []
    with TemporaryDirectory(prefix=".model-", dir=out) as temporary:
        prepared = prepare_model(find_trained_model(folder, plan, catalog), Path(temporary))
        for name, options in FORMATS:
            if only and name not in only:
                continue
            label = {"exporter": name, "format": next(iter(options.values()))}
            try:
                export = build_export(catalog, name, options)
                target = out / f"{name}-{label['format']}"
                shutil.rmtree(target, ignore_errors=True)
                certificate = export_prepared(prepared, export, target)
                rows.append(
                    {
                        **label,
                        "max_logprob_difference_nats": certificate["max_logprob_difference_nats"],
                        "mean_kl_nats": certificate["mean_kl_nats"],
                        "not_verified": certificate["not_verified"],
                        "bytes": _count_bytes(target),
                        **_measure_engine(export, target, prepared, certificate, with_speed),
                    }
                )
            except (TunesmithError, OfferNotFoundError) as error:
                rows.append({**label, "failed": str(error)})
            print(format_row(rows[-1]), flush=True)
    return {
        "technique": plan.technique.offer.name,
        "rows": rows,
        "machine": machine.describe_machine(),
    }


def build_export(catalog: Catalog, name: str, options: dict[str, str]) -> Export:
    """Return the exporter with these options, as ``tunesmith export`` uses it."""
    offer: ExporterOffer[Any] = catalog.find(ExporterOffer, name).offer
    return Export.from_offer(offer, from_table(offer.config, options))


def _measure_engine(
    export: Export,
    target: Path,
    prepared: PreparedModel,
    certificate: dict[str, Any],
    with_speed: bool,
) -> dict[str, Any]:
    """Return the speed, and the metric, which the checks have measured if weights are rounded."""
    start, trained = time.perf_counter(), prepared.trained
    found = {name: certificate[name] for name in ("metric",) if name in certificate}
    if found and not with_speed:
        return found
    with export.exporter.open(target) as engine:
        if with_speed:
            found["load_seconds"] = time.perf_counter() - start
            found["tokens_per_second"] = measure_speed(engine, trained)
        if "metric" not in found and prepared.expected is not None and trained.measure is not None:
            after = trained.measure(EngineModel(engine, prepared.template))[0]
            found["metric"] = compare_metric(prepared.expected[0], after)
    return found


def measure_speed(engine: Engine, trained: TrainedModel) -> float:
    """Return the generated tokens in a second, after one answer that is not counted."""
    asked: list[Prompt] = [last_exchange(record)[0] for record in trained.test]
    asked = [prompt for prompt in asked if is_text_only(prompt)][: ANSWERS + 1]
    engine.generate(asked[:1], NEW_TOKENS)
    start = time.perf_counter()
    tokens = sum(len(answer.ids) for answer in engine.generate(asked[1:], NEW_TOKENS))
    return tokens / (time.perf_counter() - start)


def _count_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


HEAD = (
    "| exporter | format | log-probability, nats | KL, nats | metric | difference | MB | opens, s "
    "| tokens/s |\n|---|---|---|---|---|---|---|---|---|"
)


def format_row(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    start = f"| `{row['exporter']}` | `{row['format']}` |"
    if "failed" in row:
        return f"{start} {row['failed']} |  |  |  |  |  |  |"
    metric = row.get("metric")
    cells = [
        f"{row['max_logprob_difference_nats']:.1e}",
        f"{row['mean_kl_nats']:.1e}",
        f"{metric['name']} {metric['before']:.3f} → {metric['after']:.3f}" if metric else "",
        f"{metric['difference']:+.3f} [{metric['low']:+.3f}, {metric['high']:+.3f}]"
        if metric
        else "",
        f"{row['bytes'] / 1e6:,.0f}",
        f"{row['load_seconds']:.1f}" if "load_seconds" in row else "",
        f"{row['tokens_per_second']:.0f}" if "tokens_per_second" in row else "",
    ]
    return f"{start} {' | '.join(cells)} |"


def main() -> None:
    """Measure, print the table and write the numbers."""
    summary = str(__doc__).partition("\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, required=True, help="folder for exports and numbers")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="exporters")
    parser.add_argument("--no-speed", action="store_true", help="do not measure speeds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(HEAD, flush=True)
    found = measure_run(
        options.run, options.out.absolute(), options.only, with_speed=not options.no_speed
    )
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    (options.out / "exports.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
