"""Way of an image to the encoder's input: decode, pair into tubelets, preprocess; and account for each frame."""
