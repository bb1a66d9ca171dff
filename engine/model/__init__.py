"""What a scenario, a policy and an outcome are, and the geometry of page tables. Imports nothing of engine."""
