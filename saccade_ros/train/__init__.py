"""Training offline: the causal adapter, the cache of a teacher's targets, and the student."""
