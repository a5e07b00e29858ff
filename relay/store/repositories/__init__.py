"""The repositories: one class for each protocol of the core (`core/storage.py`, `core/people/storage.py`).

They know a `Transaction`, and no connection. What SQLite and PostgreSQL write differently is in `store/portable.py`:
upserts, the database's clock, and `without_index`, which steers SQLite's query planner.
"""
