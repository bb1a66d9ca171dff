"""The general pass over an address space, visit by visit, for all policies. Imports random and what is below it."""
