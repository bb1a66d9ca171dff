"""The live kernel as an engine: the same scenario in, the same columns out, in a fresh process a point."""
