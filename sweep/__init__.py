"""Everything around the engine: grids, plans, Ray, the store, SQL, commands."""

__version__ = "0.1.0"
