"""How long tests wait for what has to happen."""

PATIENCE = 120.0
"""Seconds after which what has not happened is taken not to happen: many, for a machine on which much else runs. Only a
test that fails waits so long, and no test asserts how long anything takes by it."""
