"""Models to compare a trained one with, and reward models to compare their answers."""
