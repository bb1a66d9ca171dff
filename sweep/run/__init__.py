"""Launches: plan, cut into tasks, drive an executor, commit rows, resume. Imports executors and what is below."""
