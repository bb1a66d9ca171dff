"""Kernel images: which ones this user has, how more are got, how they travel to nodes. Imports common and engine."""
