"""Options of ``peft``, checked against the config class of the chosen method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from tunesmith.text import suggest_name
from tunesmith_peft.methods import METHODS, find_method
from tunesmith_peft.peft_source import list_methods, read_options
from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions, QuantizationOptions
from tunesmith_torch.options.training import SupervisedOptions

_TRAINABLE = [name for name, method in METHODS.items() if not method.refused]
_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
"""Starts of ``init_lora_weights`` that change the base weights in memory."""
_READS_ROWS = ("eva", "corda", "lora_ga")
"""Starts of ``init_lora_weights`` that run the model on training rows."""
_PLAIN_LORA = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("init_lora_weights", "corda_config", "lora_ga_config", "fan_in_fan_out"),
    }
)
"""Options whose adapter can be saved as a difference from its initial values."""
_PICKLES = ("cache_file", "covariance_file")
"""Keys of ``corda_config`` that name pickled files."""


class PeftOptions(SupervisedOptions):
    """Options of ``peft``: those of supervised training, the method, and its own options."""

    STARTS_FROM_BASE: ClassVar[bool] = True

    learning_rate: float = Field(
        1e-3,
        gt=0,
        le=1,
        description=(
            "Peak learning rate. Methods differ: rotations such as oft use about 1e-4, methods "
            "with few numbers such as ia3, vera or prompt_tuning 1e-2 and more."
        ),
    )
    method: str = Field(
        "lora",
        description=(
            f"Method of the installed PEFT: {', '.join(sorted(_TRAINABLE))}. A method that is not "
            "in this list is tested before it trains."
        ),
    )
    options: dict[str, Any] = Field(
        {},
        validate_default=True,
        description=(
            "Options of the method, as in PEFT's config class: `tunesmith peft methods NAME` lists "
            "them. Without target_modules, all linear layers are adapted, except by methods that "
            "choose modules themselves."
        ),
    )
    b_rate_ratio: float = Field(
        1.0,
        ge=1,
        le=1000,
        description=(
            "LoRA+: how much faster LoRA's matrices B learn than its matrices A (Hayou et al. "
            "2024); 16 is common, with a lower `learning_rate`."
        ),
    )
    quantization: QuantizationOptions | None = Field(
        None, description="Store the frozen base model in 4 or 8 bits. Unset: not quantized."
    )

    @property
    def adaptation(self) -> Adaptation:
        """The adapter, and how the base model is stored."""
        rank = self.options.get("r")
        adapter = AdapterOptions(
            rank=rank if isinstance(rank, int) and 0 < rank <= 1024 else 8,
            b_rate_ratio=self.b_rate_ratio,
        )
        if self.quantization is None:
            return Adaptation("lora", adapter, None, self._build)
        return Adaptation("qlora", adapter, self.quantization, self._build)

    def _build(self, base: Any, precision: Any) -> Any:
        """Add the adapter to a model; PEFT is imported here."""
        from tunesmith_peft.adapter import add_adapter

        return add_adapter(base, precision, self.method, self.options, seed=0)

    @property
    def initialization(self) -> str:
        """LoRA's initialization in lower case; empty for other methods, and if it is not set."""
        given = self.options.get("init_lora_weights", "") if self.method == "lora" else ""
        return str(given).lower()  # PEFT accepts some names in any case

    @property
    def changes_base(self) -> bool:
        """True if the initialization changes the base weights in memory."""
        return self.initialization.startswith(_CHANGES_BASE)

    @property
    def reads_rows(self) -> bool:
        """True if the initialization runs the model on training rows."""
        return self.initialization.startswith(_READS_ROWS)

    @field_validator("method")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if problem := find_name_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("options")
    @classmethod
    def _check_options(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        method = info.data.get("method")
        if method is not None and (problem := next(find_problems(method, value), "")):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _check_method(self) -> PeftOptions:
        if self.b_rate_ratio != 1 and "use_rslora" not in read_options(self.method):
            raise ValueError(
                f"`b_rate_ratio` needs a method with matrices A and B, not {self.method}"
            )
        if self.initialization == "loftq":
            raise ValueError('init_lora_weights = "loftq" is not supported; use pissa or eva')
        others = sorted({*self.options} - _PLAIN_LORA)
        if self.changes_base and others:
            raise ValueError(
                f'init_lora_weights = "{self.initialization}" changes the base model, so it cannot '
                f"be combined with {', '.join(others)}"
            )
        if self.quantization is not None and self.reads_rows:
            raise ValueError(
                f'init_lora_weights = "{self.initialization}" needs weights that are not '
                "quantized: remove `quantization`, or choose another initialization"
            )
        found = find_method(self.method)
        if self.quantization is not None and found is not None and not found.is_quantizable:
            raise ValueError(
                f"method {self.method} does not work on a base model in 4 or 8 bits: remove "
                "`quantization`"
            )
        return self


def find_unknown(method: str) -> str:
    """Return that PEFT has no method of this name, and the most similar one; empty if it has."""
    if method in list_methods():
        return ""
    guess = suggest_name(method, list_methods())
    hint = f'did you mean "{guess}"?' if guess else "list them: tunesmith peft methods"
    return f'the installed PEFT has no method "{method}"; {hint}'


def find_name_problem(method: str) -> str:
    """Return what is wrong with the name of a method; empty if nothing is."""
    if problem := find_unknown(method):
        return problem
    found = find_method(method)
    if found is not None and found.refused:
        return f'method "{method}" cannot be trained: {found.refused}'
    return ""


def find_problems(method: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the names and types of a method's options."""
    known, found = read_options(method), find_method(method)
    for name, value in given.items():
        if name not in known:
            guess = suggest_name(name, known)
            hint = f'did you mean "{guess}"?' if guess else f"options: {', '.join(known)}"
            yield f'{method} has no option "{name}"; {hint}'
            continue
        try:
            known[name].check(value)
        except ValidationError:
            wanted = known[name].annotation
            yield f"option {name} of {method} must be {wanted}, got {value!r:.60}"
        if isinstance(value, dict) and (pickled := [key for key in _PICKLES if key in value]):
            yield f"option {name}.{pickled[0]} of {method} names a pickled file; remove it"
    for name in found.required if found is not None else ():
        if name not in given:
            yield f'method "{method}" requires option {name}: {known[name].help or "see PEFT"}'
