"""The ``classification`` evaluator: measure accuracy and macro F1 of answers that are labels."""
