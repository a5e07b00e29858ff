"""Deterministic simulation: the real core and store, a virtual clock, and two platforms that misbehave by seed.

In the manner of FoundationDB and TigerBeetle: thousands of short histories, in each of which everything goes wrong that
the contract of the adapters allows, the process is killed at any await and started again on the same store; once
things are quiet, the invariant of CONTRIBUTING has to hold. A history follows from its seed alone.
"""
