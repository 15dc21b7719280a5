"""Workloads and ablations: what each optimization is worth on this machine, and what it does to the answers."""
