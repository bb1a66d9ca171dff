"""SQL over stored runs on sealed DuckDB connections, named queries, conditions. Imports store and what is below it."""
