"""Runs on disk or object storage: rows to Arrow to Parquet, locks, commits. Imports common, traces and grid."""
