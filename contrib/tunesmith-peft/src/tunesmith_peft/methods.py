"""Requirements of training with each method of PEFT, beyond an adapter inside the model's layers.

Methods were classified with PEFT 0.21. A method that is missing here is tested before it trains:
see :mod:`tunesmith_peft.self_test`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Method:
    """The requirements of training with a method."""

    uses_forward: bool = False
    """True if the adapter only takes effect in PEFT's own forward pass, as virtual tokens do.

    Rows are then computed one at a time, without packing and shared prefixes.
    """
    hidden_term: str = ""
    """The loss term that PEFT's forward adds: a function of the ``weights``, or of the ``rows``."""
    has_step_hook: bool = False
    """True if PEFT changes weights after each step: ``update_and_allocate``."""
    own_targets: bool = False
    """True if PEFT chooses the modules by default; otherwise all linear layers are adapted."""
    required: tuple[str, ...] = ()
    """Options without a usable default."""
    needs: tuple[str, ...] = ()
    """Further packages."""
    is_quantizable: bool = True
    """False if PEFT fails, or computes something else, on a base model in 4 bits."""
    is_random: bool = False
    """True if the layers draw random numbers in training, which packing changes."""
    starts_elsewhere: bool = False
    """True if the initial adapter changes the model."""
    refused: str = ""
    """Why the method cannot be trained; empty if it can."""
    note: str = ""
    """A note for users of the method."""

    def describe(self) -> str:
        """Describe the requirements in a few words."""
        if self.refused:
            return f"refused: {self.refused}"
        parts = ["one row at a time"] * self.uses_forward
        parts += [f"loss term over {self.hidden_term}"] * bool(self.hidden_term)
        parts += ["changes weights after each step"] * self.has_step_hook
        parts += [f"requires {', '.join(self.required)}"] * bool(self.required)
        parts += [f"needs {', '.join(self.needs)}"] * bool(self.needs)
        parts += ["its initial values change the model"] * self.starts_elsewhere
        parts += ["not on a quantized base model"] * (not self.is_quantizable)
        return "; ".join([*parts, self.note] if self.note else parts) or "works as it is"


_PLAIN = [
    "boft",
    "c3a",
    "gralora",
    "hira",
    "lora",
    "miss",
    "oft",
    "randlora",
    "road",
    "shira",
    "vera",
    "waveft",
]
_UNQUANTIZED = [
    "deft",
    "delora",
    "frod",
    "glora",
    "hra",
    "loha",
    "lokr",
    "osf",
    "peanut",
    "psoft",
    "supertuning",
]
_SHARED = Method(note="its layers share parameters")
_SHARED_UNQUANTIZED = replace(_SHARED, is_quantizable=False)
_VIRTUAL = Method(uses_forward=True, required=("num_virtual_tokens",))
_TASKS = Method(refused="it needs the number of the task in each row")

METHODS: dict[str, Method] = {
    **dict.fromkeys(_PLAIN, Method()),
    **dict.fromkeys(_UNQUANTIZED, Method(is_quantizable=False)),
    "lily": Method(refused="its router averages over all tokens, also later ones and other rows"),
    "vblora": _SHARED,
    "tinylora": _SHARED_UNQUANTIZED,
    "unilora": replace(_SHARED_UNQUANTIZED, starts_elsewhere=True),
    "fourierft": Method(starts_elsewhere=True),
    "pvera": Method(is_random=True, note="adds noise while it trains"),
    **dict.fromkeys(("prompt_tuning", "prefix_tuning", "cartridge"), _VIRTUAL),
    "adalora": Method(hidden_term="weights", has_step_hook=True),
    "adamss": Method(has_step_hook=True, is_quantizable=False, needs=("scikit-learn",)),
    "adaption_prompt": Method(own_targets=True, required=("adapter_len", "adapter_layers")),
    "beft": Method(note="layers without a bias get one, so it cannot be merged"),
    "cpt": replace(
        _VIRTUAL, required=("cpt_token_ids",), note="its loss weights of prompt tokens are not used"
    ),
    "ia3": Method(own_targets=True),
    "ln_tuning": Method(own_targets=True),
    "multitask_prompt_tuning": _TASKS,
    "p_tuning": replace(_VIRTUAL, required=("num_virtual_tokens", "encoder_hidden_size")),
    "poly": _TASKS,
    "shadow": Method(uses_forward=True, hidden_term="rows", own_targets=True),
    "trainable_tokens": Method(own_targets=True, required=("token_indices",)),
    "xlora": Method(refused="it mixes adapters that are already trained"),
}
"""The methods of PEFT 0.21 by name."""


def find_method(name: str) -> Method | None:
    """Return what a method requires, or None if it is not classified."""
    return METHODS.get(name)
