"""A recording played again: its images, what the encoder made of them, and a report to read."""
