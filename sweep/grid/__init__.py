"""From YAML to points: parse a grid, check it, expand it, name each point. Imports common and traces."""
