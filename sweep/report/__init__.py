"""HTML pages: one file with pictures, tables and their SQL, which opens without network. Imports plot and below."""
