"""The cached causal V-JEPA 2 encoder, in torch: rope, ring cache, model, weights. Read in that order."""
