"""Reasons why a chat template cannot write a conversation; error messages begin with them."""

__all__ = ["HAS_REASONING", "REFUSED_BY_TEMPLATE", "TEMPLATE_DROPS_MESSAGE"]

REFUSED_BY_TEMPLATE = "rejected by the chat template"
HAS_REASONING = "the answer has reasoning"
TEMPLATE_DROPS_MESSAGE = "the chat template skips a message"
NO_ANSWER = "no assistant turn to train on"
