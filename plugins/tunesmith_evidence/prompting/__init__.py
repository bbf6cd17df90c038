"""Prompts for an untuned model: instructions, and worked examples that are chosen or retrieved."""
