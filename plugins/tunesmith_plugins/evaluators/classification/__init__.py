"""Evaluator ``classification``: accuracy and macro F1 of answers that are labels."""
