"""The repositories: one class for each protocol of `core/storage.py`. They know a `Transaction`, and no database."""
