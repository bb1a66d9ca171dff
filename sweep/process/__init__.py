"""Live processes: read /proc, count page tables, estimate what reclaim gives back. Imports common, traces and grid."""
