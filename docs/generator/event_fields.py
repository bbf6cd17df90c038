"""Sentences on the fields of events that have no text of their own beside the code.

The class of an event says what happened, and its less obvious fields have a text there. What is
here is for readers of ``events.jsonl``: units, and what an empty value means.
"""

STAGE = "Name of the stage; empty if the technique has none."

FIELDS: dict[str, dict[str, str]] = {
    "run-started": {
        "run": "Name of the run folder, which identifies the run.",
        "name": "Name of the run: `[run] name`, or that of the run file.",
        "started": "Time in UTC, in ISO 8601.",
        "plan": "The resolved run file: all tables with their defaults. Secrets are masked.",
        "versions": "Version by library, and of Python and tunesmith.",
        "plugins": "The plugins that the run uses, with their distributions and versions.",
        "resumed": "True if the run continues an earlier process.",
    },
    "phase-started": {
        "phase": "`data`, `model`, or what is trained or measured, such as `tuned`.",
        "total": "Number of units of work; None if it is not known.",
        "unit": "What is counted, in the plural.",
    },
    "phase-advanced": {
        "phase": "Name of the phase, as in `phase-started`.",
        "done": "Units finished since the phase began.",
    },
    "phase-ended": {
        "phase": "Name of the phase, as in `phase-started`.",
        "seconds": "Duration of the phase.",
    },
    "data-loaded": {
        "description": "One line of the data loader: the files and the detected format.",
        "train": "Number of training rows.",
        "test": "Number of test rows, on which results are measured.",
        "validation": "Number of validation rows, by which choices are made.",
        "skipped": "Number of unusable rows by cause; empty if there are none.",
    },
    "model-resolved": {
        "reference": "`[model] base` as the run file has it, resolved.",
        "description": "One line for users: what the reference was taken for.",
        "files": "Short hash by file name; see above for what it covers.",
    },
    "finding": {
        "level": "An error ends the run, a warning is in the report too, an info is only shown.",
        "source": "Position in the data, key of the run file, or the plugin that it comes from.",
        "message": "One sentence.",
        "examples": "Up to three of the rows, each with `file:line` and a short text.",
        "hint": "The next thing to do; empty if there is none.",
    },
    "forecast": {
        "technique": "Name of the technique.",
        "method": "`analytic` is computed from the config, `traced` from a simulated step.",
        "device": "The device, with its model where that is known.",
        "device_type": "`cuda` or `cpu`.",
        "flops": "Floating-point operations of the training, recomputation included.",
        "steps": "Optimizer steps of the training.",
        "tokens": "Tokens that training computes over all epochs.",
        "notes": "The assumptions of the forecast, as sentences.",
    },
    "training-started": {
        "stage": STAGE,
        "technique": "Name of the technique.",
        "steps": "Optimizer steps up to the end of training.",
        "epochs": "Passes over the training rows, as the options ask for.",
        "rows": "Number of training rows, or of what takes their place: pairs, prompts.",
        "trainable_parameters": "Number of parameters that training changes.",
        "parameters": "Number of parameters of the model, adapters included.",
        "device": "The device as torch names it.",
        "precision": "Number format of the computation, and the reason for it.",
        "first_step": "Steps that earlier processes of the run have taken; 0 in a new run.",
    },
    "step-finished": {
        "stage": STAGE,
        "step": "Number of the step, from 1.",
        "steps": "Number of the last step.",
        "loss": "Mean over the trained tokens of the batch, before the update, in nats per token; "
        "a technique with another objective has its own unit.",
        "learning_rate": "Learning rate of this update.",
        "gradient_norm": "Euclidean norm over all trained parameters, before clipping.",
        "rows": "Rows of the batch, over all processes.",
        "tokens": "Tokens of the batch, without padding.",
        "trained_tokens": "Those of the tokens that contribute to the loss.",
        "seconds": "Duration of the step. Not the same after a resume.",
        "memory_bytes": "Peak memory of the process so far: of the GPU, or resident on a CPU. Not "
        "the same after a resume.",
        "epoch": "Passes over the data after this step, as a fraction.",
    },
    "checkpoint-saved": {
        "step": "Optimizer steps taken.",
        "path": "Folder of the checkpoint, relative to the run folder.",
        "bytes": "Size on disk.",
        "seconds": "Duration of the save, flushing included.",
    },
    "training-finished": {
        "stage": STAGE,
        "technique": "Name of the technique.",
        "steps": "Optimizer steps taken, over all processes of a resumed run.",
        "tokens": "Tokens of all steps, without padding; None if they are not known.",
        "trained_tokens": "Those that contributed to the loss; None if they are not known.",
        "peak_memory_bytes": "Peak memory of this process: of the GPU, or resident on a CPU.",
        "format": "`adapter` is a PEFT folder, `model` a transformers folder.",
    },
    "monitored": {
        "stage": STAGE,
        "step": "Optimizer steps taken before the evaluation; 0 is the initial model.",
        "metrics": "Value by name; see above.",
    },
    "completion-sampled": {
        "stage": STAGE,
        "step": "Optimizer steps taken before the completion was sampled.",
        "prompt": "The prompt, as text.",
        "completion": "The completion, as text.",
        "reward": "The sum of the rewards that the policy is trained on.",
    },
    "gate-checked": {
        "stage": STAGE,
        "gate": "Name of the gate.",
        "passed": "True if what was measured is good enough.",
        "metrics": "What was measured, by name.",
    },
    "baseline-chosen": {
        "baseline": "Name of the baseline.",
        "variant": "Name of the chosen variant; empty if there is only one.",
        "solution": "What a team would use instead of a tuned model.",
        "cost": "Order of the costs of an answer in production: lower is cheaper.",
        "evaluator": "Id of the evaluator that chose; empty if nothing was chosen.",
        "metric": "Its metric.",
        "higher_is_better": "The direction of that metric.",
        "validation_rows": "Number of rows by which it was chosen.",
        "seconds": "Duration of the choice.",
    },
    "measured": {
        "metric": "Name of the metric.",
        "value": "Mean over the records, weighted if the evaluator gives weights, in `unit`.",
        "low": "Lower end of the interval.",
        "high": "Upper end of the interval.",
        "n": "Number of records.",
        "higher_is_better": "The direction of the metric.",
        "seconds": "Duration of the measurement; that of one evaluator is in all its metrics.",
        "records": "File with the value of each record, relative to the run folder.",
        "unit": "Unit of the value; empty for a share or a number without one.",
    },
    "run-finished": {
        "status": "`stopped` can be continued with `tunesmith resume`, and `failed` once its cause "
        "is removed.",
        "exit_code": "The exit code of the command; see [exit codes](exit-codes.md).",
        "finished": "Time in UTC, in ISO 8601.",
        "seconds": "Duration of this process.",
        "verdict": "The verdict with its comparisons; empty if the run did not come that far.",
        "error": "Message of the error that ended the run; empty if none did.",
        "hint": "The next thing to do after the error; empty if there is none.",
    },
}
"""Sentence by field, by the kind of the event."""
