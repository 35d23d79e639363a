"""Measuring: metrics, timing, progress, machine and records. NumPy only at import."""
