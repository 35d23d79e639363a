"""From a camera's message to the encoder's input: decode, pair into tubelets, preprocess."""
