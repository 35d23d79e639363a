"""Cached causal V-JEPA 2 encoder. Read spec, positions, rope, ring, attention, model and weights in that order.

spec and positions import no torch: whatever runs an export reads them, too.
"""
