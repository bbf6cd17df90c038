"""Reasons why a conversation cannot be written with a chat template; they begin the message."""

__all__ = ["DROPS_MESSAGE", "HAS_REASONING", "REFUSED"]

REFUSED = "the chat template refuses it"
HAS_REASONING = "its answer has reasoning"
DROPS_MESSAGE = "the chat template skips a message"
NO_ANSWER = "no assistant turn to learn"
