"""Ways to run a batch of points: in this process, in local processes, on Ray. Imports store and what is below it."""
