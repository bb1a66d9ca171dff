"""SQL over stored runs on sealed DuckDB connections, conditions, comparison of runs. Imports store and below."""
