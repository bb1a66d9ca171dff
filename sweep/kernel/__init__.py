"""The same points and traces on the live kernel, and measured costs. Imports run and what is below it."""
