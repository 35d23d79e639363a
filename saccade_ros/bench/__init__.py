"""Benchmarks: one command each, a table on screen, one JSON. Ratios are only of what one run measured in turns."""
