"""Scenarios on the live kernel, in a child process. Imports run and what is below it."""
