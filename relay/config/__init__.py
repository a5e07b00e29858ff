"""`relay.toml` and the environment become one frozen `Settings`, or a list of mistakes.

`settings` holds the values, which everybody outside core and domain may import; only `cli` imports `loading`, which
reads them, and `child`, which lets another process do that for the daemon.
"""
