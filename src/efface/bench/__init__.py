"""Benchmarks: protocols, units of work in a ledger, metrics, tables."""
