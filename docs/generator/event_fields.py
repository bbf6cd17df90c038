"""Descriptions of event fields that have no docstring in the source.

Docstrings beside the code describe each event and its less obvious fields. The texts here are for
readers of ``events.jsonl``: units, and the meaning of empty values.
"""

STAGE = "Name of the stage; empty if the technique has none."

FIELDS: dict[str, dict[str, str]] = {
    "run-started": {
        "run": "Name of the run folder, which identifies the run.",
        "name": "Name of the run: `[run] name`, by default the run file's name.",
        "started": "Time in UTC, in ISO 8601.",
        "plan": "The resolved run file: all tables with their defaults. Secrets are masked.",
        "versions": "Versions of libraries, Python and tunesmith, by name.",
        "plugins": "The plugins that the run uses, with their distributions and versions.",
        "resumed": "True if the run was resumed.",
    },
    "phase-started": {
        "phase": "Name of the phase: `data`, `model`, or a model that is trained or measured.",
        "total": "Number of units to process; None if unknown.",
        "unit": "Name of the units, in the plural.",
    },
    "phase-advanced": {
        "phase": "Name of the phase, as in `phase-started`.",
        "done": "Units finished since the phase started.",
    },
    "phase-ended": {
        "phase": "Name of the phase, as in `phase-started`.",
        "seconds": "Duration of the phase.",
    },
    "part-ended": {
        "part": "Name of the part.",
        "seconds": "Time that this process spent in the part.",
    },
    "data-loaded": {
        "description": "One line from the data loader: the files and the detected format.",
        "train": "Number of training rows.",
        "test": "Number of test rows, used to measure results.",
        "validation": "Number of validation rows, used to choose settings.",
        "skipped": "Number of skipped rows by cause; empty if no row was skipped.",
    },
    "model-resolved": {
        "reference": "`[model] base` in the run file, resolved.",
        "description": "One line for users: the kind of model that was found.",
        "files": "Short hashes by file name; see above for how they are computed.",
    },
    "finding": {
        "level": "`error` ends the run, `warning` is also in the report, `info` is only shown.",
        "source": "Position in the data, run-file key, or the plugin that reports the finding.",
        "message": "One sentence.",
        "examples": "Up to three of the rows, each with `file:line` and a short text.",
        "hint": "What to do next; may be empty.",
    },
    "forecast": {
        "technique": "Name of the technique.",
        "method": "`analytic`: computed from the config; `traced`: from a simulated step.",
        "device": "The device, including its model if known.",
        "device_type": "`cuda` or `cpu`.",
        "flops": "Floating-point operations of the training run, including recomputation.",
        "steps": "Optimizer steps of the training run.",
        "tokens": "Tokens that training computes over all epochs.",
        "notes": "The assumptions of the forecast, as sentences.",
    },
    "training-started": {
        "stage": STAGE,
        "technique": "Name of the technique.",
        "steps": "Number of optimizer steps until training ends.",
        "epochs": "Passes over the training rows, as the options request.",
        "rows": "Number of training rows, or of the pairs or prompts used instead.",
        "trainable_parameters": "Number of parameters that training changes.",
        "parameters": "Number of parameters of the model, including adapters.",
        "device": "The device, as torch names it.",
        "precision": "Number format of the computation, and the reason for it.",
        "first_step": "Steps taken by earlier processes of the run; 0 in a new run.",
    },
    "step-finished": {
        "stage": STAGE,
        "step": "Number of the step, starting at 1.",
        "steps": "Number of the last planned step.",
        "loss": "Mean loss of the batch before the update, in nats per token. "
        "Techniques with another objective have another unit.",
        "learning_rate": "Learning rate of this update.",
        "gradient_norm": "Euclidean norm of the whole gradient, before clipping.",
        "rows": "Rows of the batch, over all processes.",
        "tokens": "Tokens of the batch, without padding.",
        "trained_tokens": "Tokens of the batch that contribute to the loss.",
        "seconds": "Duration of the step. Not reproduced by a resumed run.",
        "memory_bytes": "Peak memory of the process so far: GPU memory, or resident memory on a "
        "CPU. Not reproduced by a resumed run.",
        "epoch": "Passes over the data after this step, as a fraction.",
    },
    "checkpoint-saved": {
        "step": "Optimizer steps taken.",
        "path": "Folder of the checkpoint, relative to the run folder.",
        "bytes": "Size on disk.",
        "seconds": "Duration of the save, including flushing.",
    },
    "training-finished": {
        "stage": STAGE,
        "technique": "Name of the technique.",
        "steps": "Optimizer steps taken, over all processes of a resumed run.",
        "tokens": "Tokens of all steps, without padding; None if unknown.",
        "trained_tokens": "Tokens that contributed to the loss; None if unknown.",
        "peak_memory_bytes": "Peak memory of this process: GPU memory, or resident on a CPU.",
        "format": "`adapter` is a PEFT folder, `model` a transformers folder.",
    },
    "monitored": {
        "stage": STAGE,
        "step": "Optimizer steps taken before the evaluation; 0 is the initial model.",
        "metrics": "Measured values by name; see above.",
    },
    "completion-sampled": {
        "stage": STAGE,
        "step": "Optimizer steps taken before the completion was sampled.",
        "prompt": "The prompt, as text.",
        "completion": "The completion, as text.",
        "reward": "Sum of the rewards that the policy is trained on.",
    },
    "gate-checked": {
        "stage": STAGE,
        "gate": "Name of the criterion.",
        "passed": "True if the criterion is met.",
        "metrics": "The measured values, by name.",
    },
    "baseline-chosen": {
        "baseline": "Name of the baseline.",
        "variant": "Name of the chosen variant; empty if there is only one.",
        "solution": "Kind of solution that a team would use instead of a tuned model.",
        "cost": "Rank of the cost per answer in production: lower is cheaper.",
        "evaluator": "Id of the evaluator used to choose; empty if nothing was chosen.",
        "metric": "The metric used to choose.",
        "higher_is_better": "True if a higher value of the metric is better.",
        "validation_rows": "Number of rows that the variant was chosen on.",
        "seconds": "Duration of the choice.",
    },
    "measured": {
        "metric": "Name of the metric.",
        "value": "Mean over the records, weighted if the evaluator gives weights, in `unit`.",
        "low": "Lower end of the interval.",
        "high": "Upper end of the interval.",
        "n": "Number of records.",
        "higher_is_better": "True if a higher value is better.",
        "seconds": "Duration of the measurement; all metrics of one evaluator share it.",
        "records": "File with the value of each record, relative to the run folder.",
        "unit": "Unit of the value; empty for a share or a dimensionless number.",
    },
    "run-finished": {
        "status": "`stopped`: continue with `tunesmith resume`. `failed`: fix the cause first, "
        "then resume.",
        "exit_code": "The exit code of the command; see [exit codes](exit-codes.md).",
        "finished": "Time in UTC, in ISO 8601.",
        "seconds": "Duration of this process.",
        "verdict": "The verdict with its comparisons; empty if the run did not get that far.",
        "error": "Message of the error that ended the run; empty if there was none.",
        "hint": "What to do about the error; may be empty.",
    },
}
"""Description by event kind and field."""
