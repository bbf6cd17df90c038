"""``tunesmith merge``: merge an adapter into its base model and write a model folder."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.execution.run_data import load_data
from tunesmith.machine import expand_home
from tunesmith.plan import Plan
from tunesmith.records import Prompt, last_exchange
from tunesmith.storage import RunFolder, lock_to_read
from tunesmith_cli.common import trust_option
from tunesmith_evidence.number_text import format_deviation
from tunesmith_torch.options.training import TrainingOptions

if TYPE_CHECKING:
    from tunesmith_torch.models.merging import MergeOptions

CHECK_PROMPTS = 64
"""Test prompts on which the merged model is compared with the trained one."""


@click.command("merge")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write. Default: RUN/merged."
)
@click.option(
    "--into",
    type=click.Choice(["dequantized", "original"]),
    help="Base weights of a quantized run: dequantized as in training (default), or original.",
)
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0),
    default=1e-3,
    show_default=True,
    help="Largest KL divergence of the merged model from the trained one, in nats per token.",
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    out: Path | None,
    into: Literal["dequantized", "original"] | None,
    max_kl: float,
    as_json: bool,
) -> None:
    """Merge the adapter of RUN into its base model and write a plain model folder.

    The merged model is loaded again and compared with the trained model on test prompts. If
    they differ by more than --max-kl, the exit code is 6 and nothing is written.
    """
    folder, plan, _ = api.load_run(run)
    adapter = _find_adapter(folder, plan)
    options = _merge_options(plan, into, max_kl)
    _, parts = load_data(plan)
    prompts: list[Prompt] = [last_exchange(r)[0] for r in islice(parts.test, CHECK_PROMPTS)]
    from tunesmith_torch.models.initial_model import adapter_base_folder
    from tunesmith_torch.models.merging import merge_adapter

    target = folder.path / "merged" if out is None else expand_home(out).absolute()
    with lock_to_read(folder.path):
        training = cast(TrainingOptions, plan.technique.config)
        base = adapter_base_folder(plan.found_model.fetch(), adapter, training)
        merged = merge_adapter(base, adapter, target, prompts, options)
    if as_json:
        result = {
            "schema": "tunesmith.merge/1",
            "path": str(merged.path),
            "kl_nats": merged.kl,
            "prompts": merged.prompts,
            "dtype": merged.dtype,
        }
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{merged.path}: {merged.dtype}, {format_deviation(merged.kl)} nats from the trained model "
        f"(mean over {merged.prompts} prompts)"
    )


def _find_adapter(folder: RunFolder, plan: Plan) -> Path:
    trained = execute.load_report(folder).training_finished.get("")
    if trained is None:
        raise UsageError(
            f"{folder.path}: the run has no trained model yet",
            hint=f"tunesmith resume {folder.path} continues it",
        )
    if trained.format != "adapter" or not plan.technique.offer.promises.mergeable:
        raise UsageError(
            f"{folder.path}: {plan.technique.offer.name} wrote no adapter that can be merged",
            hint=f"{folder.path / trained.artifact} may be a complete model already",
        )
    return folder.path / trained.artifact


def _merge_options(
    plan: Plan, into: Literal["dequantized", "original"] | None, max_kl: float
) -> MergeOptions:
    """Return device, precision and quantization of the training, and the target of the merge."""
    from tunesmith_torch.models.merging import MergeOptions
    from tunesmith_torch.models.quantization import Quantization
    from tunesmith_torch.runtime.device import pick_device, pick_precision

    options = plan.technique.config
    assert isinstance(options, TrainingOptions)
    quantization = Quantization.from_options(options.adaptation.quantization)
    if into == "dequantized" and quantization is None:
        raise UsageError("--into: the base of this run was not quantized", hint="leave --into out")
    device = pick_device(plan.run.device)
    return MergeOptions(
        device=device,
        dtype=pick_precision(device, options.precision).dtype,
        quantization=quantization,
        into=into or "dequantized",
        max_kl=max_kl,
    )
