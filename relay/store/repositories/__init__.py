"""The repositories: one class for each protocol of `core/storage.py`. They know a `Transaction`, and no database.

Their SQL is portable, but for `INSERT OR REPLACE`, `SECONDS_NOW`, `_without_index` and where `insert` is imported from.
"""
