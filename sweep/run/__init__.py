"""A launch: plan, cut into batches, drive an executor, commit rows, resume. Imports executors and what is below."""
