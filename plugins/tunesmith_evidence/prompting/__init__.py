"""Build prompts for an untuned model: instructions, and fixed or retrieved worked examples."""
