"""The ``text-overlap`` evaluator: compare answers with references using chrF, BLEU and ROUGE-L."""
