"""The store: message map, outbox and cursors in one SQLite file. `core.storage` is what the core knows of it.

`repositories/` runs on a `Transaction`; `sqlite/` has the connections and transactions. Another database needs a folder
beside it, and its own form of what is SQLite's elsewhere: in `tables` the triggers, the partial indexes, the tables
without row ID and the packed IDs, which need a column of any type; in `pruning` and the lease's fence all SQL; and what
`repositories/__init__` names. Only `app`, `cli` and `migrations` import this package.
"""
