"""The commands, a module each; with sweep.cli the only rooms that print."""
