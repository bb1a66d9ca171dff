"""Measured costs: prices of steps on a kernel, their cost table, how well it predicts. Imports kernel and below."""
