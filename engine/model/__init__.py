"""Types for scenarios, policies and results; page-table geometry; closed forms. Imports no other package of engine."""
