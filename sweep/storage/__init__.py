"""Files in a directory or under a prefix of an object store, and the locks on them. Imports common."""
