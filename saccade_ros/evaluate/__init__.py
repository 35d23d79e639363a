"""What causality costs: the stream against the bidirectional clip encoder, and how long it remembers."""
