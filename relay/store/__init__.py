"""The store: message map, outbox and cursors in one SQLite file. `core.storage` is what the core knows of it.

`repositories/` runs on a `Transaction`; `sqlite/` is what only SQLite needs. Another database gets a folder beside it,
and its own SQL for `pruning` and the lease's fence. Only `app`, `cli` and `migrations` import this package.
"""
