"""The command line; the only package that prints. Imports all others."""
