"""Inject twelve faults into the exports of runs, and see which check of the gate finds each.

``python -m tests.benchmarks.export_faults RUN... [--only gguf mlx] [--out FILE]``
takes runs of any model, such as SmolLM2 with LoRA, QLoRA, DoRA and all weights trained. Each run's
model is exported whole, which has to pass, and then with each fault, to every exporter that is
installed. The table has the check that found the fault; a fault that the wrong check finds, or
none, and a correct export that fails, are marked, and the exit code is 1. ``no effect`` means that
the engine computes, renders and stops as the trained model does, in spite of the fault.

Most faults are made in the model folder that the exporter reads, so that they are the same for all
engines; the gate compares with the intact folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.benchmarks import machine
from tests.benchmarks.exports import build_export

from tunesmith import api
from tunesmith.catalog import OfferNotFoundError
from tunesmith.errors import GateError, TunesmithError
from tunesmith_plugins.commands.export.trained import find_trained_model
from tunesmith_torch.export.checks import ExportChecks, check_engine, check_files
from tunesmith_torch.export.contract import Engine
from tunesmith_torch.export.export_run import (
    Export,
    PreparedModel,
    TrainedModel,
    check_merged_folder,
    prepare_model,
    write_model,
)
from tunesmith_torch.export.merge_by_tensor import write_merged
from tunesmith_torch.models.artifacts import detect_artifact_format
from tunesmith_torch.models.model_folder import find_weight_files

EXPORTERS = {
    "safetensors": {"dtype": "float32"},
    "gguf": {"quantize": "f32"},
    "onnx": {"quantize": "f32"},
    "openvino": {"quantize": "f32"},
    "mlx": {"quantize": "f32"},
    "vllm": {"dtype": "float32"},
}
"""Options of each exporter: formats that do not round, so that every difference is a fault."""
OTHER_SPLIT = {"gguf": {"quantize": "f32", "pre_tokenizer": "llama-bpe"}}
"""Options with which a text is split in another way, where not the folder but a name decides."""
OTHER_CHECK = {("openvino", "lost token"): "token ids"}
"""Check that finds a fault in an exporter's files, where they do not show it."""
NONE, MERGE = "none", "merge"
NO_EFFECT, NOT_FOUND = "no effect", "NOT FOUND"


def keep(folder: Path) -> None:
    """Change nothing."""


def edit(path: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(values)
    path.write_text(json.dumps(content), encoding="utf-8")


def slow_down_rotation(folder: Path) -> None:
    """Write another base of the rotary embeddings, under both names."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parameters = {**config["rope_parameters"], "rope_theta": config["rope_theta"] / 10}
    edit(folder / "config.json", rope_theta=config["rope_theta"] / 10, rope_parameters=parameters)


def untie(folder: Path) -> None:
    """Write a head of its own that is not the embeddings."""
    for file in find_weight_files(folder):
        tensors = load_file(file)
        for name, tensor in [*tensors.items()]:
            if name.endswith("embed_tokens.weight"):
                tensors["lm_head.weight"] = tensor * 0.9
                replace_tensors(file, tensors)
    edit(folder / "config.json", tie_word_embeddings=False)


def end_elsewhere(folder: Path) -> None:
    """Name the token 0 as the end of an answer, wherever a program may look."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (text,) = [t["content"] for t in tokenizer["added_tokens"] if t["id"] == 0]
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, eos_token_id=0)
    edit(folder / "tokenizer_config.json", eos_token=text)


def lose_tokens(folder: Path) -> None:
    """Leave out the added tokens, with which a template marks turns."""
    edit(folder / "tokenizer.json", added_tokens=[])


def split_differently(folder: Path) -> None:
    """Split a text as GPT-2 does, numbers in one piece, with a blank in front of it."""
    whole = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    edit(folder / "tokenizer.json", pre_tokenizer=whole)


def edit_template(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Return the damage that changes the chat template."""

    def damage(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return damage


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}"


def truncate(out: Path) -> None:
    """Cut the end of the file that holds the weights."""
    file = max((file for file in out.rglob("*") if file.is_file()), key=lambda f: f.stat().st_size)
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size - 1000)


def replace_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file in place of one that may be a link."""
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


@dataclass(frozen=True)
class Fault:
    """A fault of an export, and the check that has to find it."""

    name: str
    check: str
    """Name of the check; where the files of an exporter do not say, log-probabilities show it."""
    damage: Callable[[Path], None] = keep
    """Changes the model folder that the exporter reads."""
    damage_export: Callable[[Path], None] = keep
    """Changes the exported files."""
    doubles_bos: bool = False
    """True if the engine puts a BOS in front of the template's own."""
    splits_differently: bool = False


WHOLE = Fault(NONE, "")
FAULTS = (
    Fault("rope", "rope", slow_down_rotation),
    Fault("template", "rendered prompt", edit_template(lambda text: text + "{{ ' ' }}")),
    Fault("double BOS", "BOS", doubles_bos=True),
    Fault("EOS", "end tokens", end_elsewhere),
    Fault("tie", "tied weights", untie),
    Fault("lost token", "added tokens", lose_tokens),
    Fault("truncated tensor", "files", damage_export=truncate),
    Fault("wrong pre-tokenizer", "token ids", split_differently, splits_differently=True),
    Fault("system prompt", "rendered system prompt", edit_template(lambda t: NO_SYSTEM + t)),
)


def halve_scale(base: Path, adapter: Path, out: Path, *rest: Any) -> None:
    """Merge with half of alpha."""
    alpha = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["lora_alpha"]
    with TemporaryDirectory() as folder:
        write_merged(
            base, copy_adapter(adapter, Path(folder) / "wrong", lora_alpha=alpha / 2), out, *rest
        )


def drop_magnitudes(base: Path, adapter: Path, out: Path, *rest: Any) -> None:
    """Merge an adapter with DoRA as plain LoRA."""
    with TemporaryDirectory() as folder:
        wrong = copy_adapter(adapter, Path(folder) / "wrong", use_dora=False)
        file = wrong / "adapter_model.safetensors"
        tensors = load_file(file)
        replace_tensors(file, {n: t for n, t in tensors.items() if "magnitude" not in n})
        write_merged(base, wrong, out, *rest)


def keep_first_components(base: Path, adapter: Path, out: Path, *rest: Any) -> None:
    """Merge as if PiSSA's adapter were added to the base, and not to what it has left of it.

    PiSSA moves the first components of each matrix into the adapter; added to the whole matrix,
    they count twice.
    """
    write_merged(base, adapter, out, *rest)
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    for file in find_weight_files(out):
        tensors = load_file(file)
        for name, weight_OI in tensors.items():
            if name.endswith("q_proj.weight"):
                u_OR, s_R, v_RI = torch.linalg.svd(weight_OI.float(), full_matrices=False)
                first_OI = u_OR[:, :rank] * s_R[:rank] @ v_RI[:rank]
                tensors[name] = (weight_OI + first_OI).to(weight_OI.dtype)
        replace_tensors(file, tensors)


def copy_adapter(adapter: Path, target: Path, **config: Any) -> Path:
    """Copy an adapter, with other values in its config."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(adapter, target)
    edit(target / "adapter_config.json", **config)
    return target


Merge = Callable[..., None]
MERGE_FAULTS: dict[str, Merge] = {
    "wrong scale": halve_scale,
    "PiSSA residual": keep_first_components,
    "DoRA as LoRA": drop_magnitudes,
}


class AddsBos:
    """An engine that puts BOS in front of a prompt, which the template has begun with one."""

    def __init__(self, engine: Engine, bos_id: int) -> None:
        self.engine, self.bos_id = engine, bos_id
        self.render, self.generate = engine.render, engine.generate
        self.logprobs = engine.logprobs

    def tokenize(self, text: str) -> Sequence[int]:
        """Return the ids with one more in front."""
        return [self.bos_id, *self.engine.tokenize(text)]


FACTS = {"rope": "rope_theta", "tied weights": "tied", "added tokens": "tokens"}
"""Fact of an exporter's files by the check that compares it."""


@dataclass(frozen=True)
class Found:
    """The outcome of one export."""

    fault: str
    expected: str
    found: str
    """Name of the check that failed; empty if all passed."""
    message: str

    @property
    def is_right(self) -> bool:
        """True if the fault was found by its check, or has no effect; or nothing was wrong."""
        return self.found in (self.expected, NO_EFFECT)


def measure_run(run: Path, only: Sequence[str]) -> Iterator[tuple[str, Found]]:
    """Export a run's model whole and with every fault that it can have; yield the outcomes.

    Each has the name of its exporter before it, or ``merge``.
    """
    folder, plan, catalog = api.load_run(run)
    trained = find_trained_model(folder, plan, catalog)
    with TemporaryDirectory(prefix="tunesmith-faults-") as temporary:
        work = Path(temporary)
        (work / "model").mkdir()
        intact = prepare_model(trained, work / "model", with_metric=False)
        if intact.merge_checks:
            yield MERGE, Found(NONE, "", "", intact.merge_checks[MERGE])
        for fault in _list_merge_faults(trained):
            yield MERGE, _merge_with(intact, fault, work / "merged")
        for name, options in EXPORTERS.items():
            if only and name not in only:
                continue
            try:
                export = build_export(catalog, name, options)
                other = build_export(catalog, name, OTHER_SPLIT.get(name, options))
            except OfferNotFoundError:
                continue
            for found in _export_with_faults(intact, export, other, work):
                yield name, found


def _list_merge_faults(trained: TrainedModel) -> list[str]:
    if detect_artifact_format(trained.artifact) != "adapter":
        return []
    config = json.loads((trained.artifact / "adapter_config.json").read_text(encoding="utf-8"))
    return [name for name in MERGE_FAULTS if name != "DoRA as LoRA" or config.get("use_dora")]


def _merge_with(intact: PreparedModel, fault: str, folder: Path) -> Found:
    trained, gate = intact.trained, ExportChecks()
    folder.mkdir()
    write_model(trained, folder, MERGE_FAULTS[fault])
    check = partial(check_merged_folder, gate, trained, folder, intact.reference)
    found = _observe(fault, MERGE, check, gate)
    shutil.rmtree(folder)
    return found if found.found else replace(found, found=NOT_FOUND)


def _export_with_faults(
    intact: PreparedModel, export: Export, other: Export, work: Path
) -> Iterator[Found]:
    """Export whole and with each fault; ``other`` splits texts in another way, if it can."""
    whole, facts = ExportChecks(), dict[str, Any]()
    for fault in (WHOLE, *FAULTS):
        gate = whole if fault is WHOLE else ExportChecks()
        chosen = other if fault.splits_differently else export
        show = partial(_verify, intact, fault, chosen, work, gate, facts)
        expected = OTHER_CHECK.get((export.name, fault.name), fault.check)
        if expected in FACTS and facts.get(FACTS[expected]) is None:
            expected = "log-probabilities"
        found = _observe(fault.name, expected, show, gate)
        if not found.found and fault is not WHOLE:
            has_effect = gate.measured != whole.measured or gate.not_verified
            found = replace(found, found=NOT_FOUND if has_effect else NO_EFFECT)
        yield found


def _verify(
    intact: PreparedModel,
    fault: Fault,
    export: Export,
    work: Path,
    gate: ExportChecks,
    facts: dict[str, Any],
) -> None:
    """Export the model with a fault, and run the checks; keep the facts of the whole one."""
    damaged, out = work / "damaged", work / "out"
    for folder in (damaged, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    copy_files(intact.folder, damaged)
    if not (fault.splits_differently and export.name in OTHER_SPLIT):
        fault.damage(damaged)
    export.exporter.export(damaged, out)
    fault.damage_export(out)
    check_files(gate, export.exporter, out, intact.folder)
    if fault is WHOLE:
        facts.update(export.exporter.facts(out))
    with export.exporter.open(out) as engine:
        bos_id = intact.reference.bos_id
        if fault.doubles_bos and bos_id is not None:
            engine = AddsBos(engine, bos_id)
        check_engine(gate, engine, intact.reference, export.tolerance)


def copy_files(source: Path, target: Path) -> None:
    """Copy the small files of a folder, and link its weights."""
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            (target / file.name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, target / file.name)


def _observe(fault: str, expected: str, show: Callable[[], object], gate: ExportChecks) -> Found:
    """Run the checks, and return the name of the one that fails."""
    try:
        show()
    except GateError as error:
        check, _, message = error.message.removeprefix("export, ").partition(": ")
        return Found(fault, expected, check, message)
    except TunesmithError as error:
        return Found(fault, expected, "refused", error.message)
    nats = gate.measured.get("max_logprob_difference_nats")
    return Found(
        fault, expected, "", gate.passed.get(MERGE, "") if nats is None else f"{nats:.1e} nats"
    )


def format_table(outcomes: Sequence[tuple[str, str, Found]]) -> str:
    """Return the table: a row for each fault, a column for each run and exporter.

    A cell has the check that found the fault, or for a correct export ``passes``.
    """
    columns = list(dict.fromkeys((run, name) for run, name, _ in outcomes))
    cells = {(found.fault, run, name): _cell(found) for run, name, found in outcomes}
    lines = ["| fault | " + " | ".join(f"{run}, {name}" for run, name in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for fault in (NONE, *MERGE_FAULTS, *(fault.name for fault in FAULTS)):
        row = [cells.get((fault, *column), "") for column in columns]
        lines.append(f"| {fault} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _cell(found: Found) -> str:
    shown = found.found or f"passes, {found.message}"
    return shown if found.is_right else f"**{shown}**, not {found.expected or 'passes'}"


def main() -> None:
    """Inject the faults, print every outcome and the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="exporters")
    parser.add_argument("--out", type=Path, help="file for the outcomes as JSON")
    options = parser.parse_args()
    outcomes: list[tuple[str, str, Found]] = []
    for run in options.runs:
        for name, found in measure_run(run, options.only):
            outcomes.append((run.name, name, found))
            print(f"{run.name}, {name}, {found.fault}: {_cell(found)}: {found.message}", flush=True)
    print("\n" + format_table(outcomes))
    if options.out:
        rows = [{"run": run, "exporter": name, **asdict(found)} for run, name, found in outcomes]
        content = {"machine": machine.describe_machine(), "outcomes": rows}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(found.is_right for _, _, found in outcomes) else 1)


if __name__ == "__main__":
    main()
