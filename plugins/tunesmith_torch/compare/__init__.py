"""Open models to compare with a trained model, and rewards and judges that rate answers."""
