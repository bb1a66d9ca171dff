"""Rows as Arrow tables and Parquet files. Imports common, traces and grid."""
