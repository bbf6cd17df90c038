"""Reasons why a chat template cannot write a conversation; error messages begin with them."""

__all__ = ["DROPS_MESSAGE", "HAS_REASONING", "REFUSED"]

REFUSED = "rejected by the chat template"
HAS_REASONING = "the answer has reasoning"
DROPS_MESSAGE = "the chat template skips a message"
NO_ANSWER = "no assistant turn to train on"
