"""The pass over an address space: installs, zaps, and what each policy frees. Imports random and what is below it."""
