"""Records what running programs do with their memory: calls that change it, and which pages are present."""
