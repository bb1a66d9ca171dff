"""The Python API: launch, runs, evaluate, Run. The same code as the commands, with return values in place of text."""
