"""What every package uses: errors, units, files, columns, cost tables. Imports no other package of sweep."""
