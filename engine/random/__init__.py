"""Keyed random draws: SplitMix64 streams, binomial distributions by inverse CDF. Imports numeric and compilation."""
