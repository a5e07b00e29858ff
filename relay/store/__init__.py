"""The store: message map, outbox and cursors, in an SQLite file or on PostgreSQL. `core.storage` is the core's side.

`repositories/` runs on a `Transaction`; `sqlite/` and `postgresql/` have the connections and transactions. What they
write differently is in `portable`, the types of columns in `tables`. `lock_file`, `lease` and `backup` are for SQLite;
PostgreSQL's lease is in its folder. Neither core nor adapters import this package, and nothing imports `postgresql/`
unless the URL of a store names it.
"""
