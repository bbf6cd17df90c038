"""Split the data into a training and a held-out part."""
