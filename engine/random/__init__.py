"""Keyed random draws: SplitMix64 streams, and integers drawn by inverse CDF. Imports engine.numeric."""
