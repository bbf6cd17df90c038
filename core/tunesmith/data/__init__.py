"""Split the data into a training and a test part."""
