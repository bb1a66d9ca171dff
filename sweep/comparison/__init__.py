"""Comparison of two runs, or of two kernels of one: SQL, tests, verdict. Imports query and what is below it."""
