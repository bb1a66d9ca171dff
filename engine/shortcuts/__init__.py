"""Faster passes for common kinds of points, with the same results as walk. Imports walk and what is below it."""
