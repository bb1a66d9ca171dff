"""Grids: parse the YAML, check every value, expand axes into points, identify points. Imports traces and below."""
