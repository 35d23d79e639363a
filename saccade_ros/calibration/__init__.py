"""What a gate costs and what it risks: calibration, the comparison with simpler gates, and the gate's own price."""
