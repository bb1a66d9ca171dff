"""Everything around the engine: grids, plans, Ray, the store, SQL, commands."""
