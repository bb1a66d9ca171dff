"""Kernels in guests: any kernel image boots in QEMU with our agent as init, which plays scenarios and recordings."""
