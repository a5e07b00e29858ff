"""Counters while the daemon runs, their snapshot in the store, and the report that `relay status` and the page read."""
