"""Replay of a recording: its images, their embeddings, and a report."""
