"""An address space driven by a recorded trace: VMAs, page tables, policies. Imports model."""
