"""Benchmarks and soak tests: run by hand, never asserted in a unit test."""
