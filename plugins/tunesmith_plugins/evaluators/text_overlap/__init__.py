"""Evaluator ``text-overlap``: chrF, BLEU and ROUGE-L of answers against the references."""
