"""Plan of each tubelet: which of its tokens are computed, decided by stages of which the surprise gate is the first."""
