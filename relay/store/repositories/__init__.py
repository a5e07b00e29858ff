"""The repositories: one class for each protocol of the core (`core/storage.py`, `core/people/storage.py`).

They know a `Transaction`, and no connection.

They are written with SQLAlchemy, and run on SQLite only. For another database, these have to be rewritten: `insert` of
SQLAlchemy's SQLite dialect (`OR REPLACE`, `ON CONFLICT`), `SECONDS_NOW`, and `_without_index`, which steers SQLite's
query planner.
"""
