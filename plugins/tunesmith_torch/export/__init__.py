"""Export a trained model for an engine, and verify that the engine computes the same results."""
