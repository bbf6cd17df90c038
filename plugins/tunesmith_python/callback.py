"""Judge a model at the end of training in a transformers or TRL trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tunesmith_python.runs import Run
from tunesmith_python.verdict import verdict


class VerdictCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Saves the model when training ends, and compares it with its base and the baselines.

    ::

        callback = tunesmith.VerdictCallback(base, "train.jsonl", "test.jsonl")
        SFTTrainer(..., callbacks=[callback]).train()
        print(callback.run.report.verdict["sentence"])
    """

    run: Run | None = None
    """The run with the verdict, once training has ended."""

    def __init__(
        self,
        base: str,
        train: str | Path,
        test: str | Path,
        *,
        out: str | Path | None = None,
        set: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the arguments of :func:`tunesmith.verdict`, except the tuned model."""
        self.base, self.train, self.test = base, train, test
        self.out, self.set = out, set

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Save the model and its tokenizer in the trainer's output folder, and judge the model."""
        if not state.is_world_process_zero:
            return
        assert args.output_dir is not None
        folder = Path(args.output_dir) / "tunesmith-tuned"
        given["model"].save_pretrained(folder, safe_serialization=True)
        if given.get("processing_class") is not None:
            given["processing_class"].save_pretrained(folder)
        self.run = verdict(self.base, folder, self.train, self.test, out=self.out, set=self.set)
