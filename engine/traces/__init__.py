"""Replay of a trace: VMAs, page tables and the tables that each policy frees. Imports engine.model."""
