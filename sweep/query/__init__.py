"""SQL over stored runs with DuckDB, and the comparison of two runs. Imports store and what is below it."""
