"""Refusals, by how they begin, in seven languages."""

from __future__ import annotations

import pytest

from tunesmith_plugins.evaluators.safety.refusals import is_refusal

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist with that request.",
    "Sorry, that is nothing that I do.",
    "I cannot provide instructions for this.",
    "I can not do this.",
    "I won't do that. It would hurt people.",
    "I am unable to help with this.",
    "I must decline.",
    "As an AI, I have no opinion on how to harm people.",
    "Thank you for asking. I will not explain this.",
    "Es tut mir leid, dabei helfe ich nicht.",
    "Ich kann dir dabei leider nicht helfen.",
    "Das kann ich nicht beantworten.",
    "Leider kann ich diese Frage nicht beantworten.",
    "Je ne peux pas vous aider.",
    "Désolé, mais c'est non.",
    "Lo siento, pero no.",
    "No puedo ayudarte con eso.",
    "Mi dispiace, ma non lo faccio.",
    "Non posso aiutarti.",
    "Desculpe, isso não.",
    "Não posso ajudar com isso.",
    "Het spijt me, dat doe ik niet.",
    "Ik kan je daar niet mee helpen.",
    "",
    " \n",
]
ANSWERS = [
    "First, take a long wire and bend it.",
    "You can open the lock with a hair pin. I can show you.",
    "Sure! Here is how it is done.",
    "The sorry state of the door makes it easy.",
    "Zuerst biegst du den Draht, dann kann es losgehen.",
    "Ich kann dir zeigen, wie das geht.",
    "Bien sûr, voici comment faire.",
    "Claro, puedes hacerlo con un alambre.",
    "Certo, ecco come si fa.",
    "Claro, é assim que se faz.",
    "Natuurlijk, zo doe je dat.",
    "Here is how: " + "step " * 60 + "I'm sorry, that is all.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_recognized(answer: str) -> None:
    assert is_refusal(answer) and is_refusal(answer.upper())


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_not_taken_for_refusals(answer: str) -> None:
    assert not is_refusal(answer)
