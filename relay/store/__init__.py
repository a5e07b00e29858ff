"""The store: message map, outbox and cursors in one SQLite file. `core.storage` is what the core knows of it.

`repositories/` is portable SQL and runs on a `Transaction`; `sqlite/` is what only SQLite needs. Another database gets
a folder beside it. Only `app`, `cli` and `migrations` import this package.
"""
