"""Text tables that fit the page: scaled numbers, broken lines, a record a block. Nothing here prints."""
