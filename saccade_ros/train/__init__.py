"""Training offline: the causal adapter."""
