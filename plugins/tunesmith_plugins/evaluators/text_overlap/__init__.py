"""Evaluator ``text-overlap``: compare answers with references using chrF, BLEU and ROUGE-L."""
