"""Used by every other package: errors, units, text files, atomic writes, the schema of columns, cost tables.

Imports engine, and no other package of sweep.
"""
