"""Models to compare a trained model with, and rewards and judges that compare their answers."""
