"""Offline: the cached step as a graph, quantized, measured, and built for other runtimes."""
