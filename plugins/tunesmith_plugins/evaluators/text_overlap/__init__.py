"""Evaluator ``text-overlap``: compare answers with references by chrF, BLEU and ROUGE-L."""
