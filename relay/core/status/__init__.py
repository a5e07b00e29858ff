"""Counts what happens, saves it in the store, and reports it to `relay status`, the page and the metrics.

All of core may use the counters. Knows nothing of `core.intake` and `core.delivery`.
"""
