"""The pass over an address space where huge pages are allowed: entries differ by policy. Imports reclaim and below."""
