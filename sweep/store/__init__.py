"""Runs: their parts, commits, checksums, merging. Imports tables, storage and what is below them."""
