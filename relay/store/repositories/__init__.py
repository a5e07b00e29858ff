"""One repository for each protocol of `core/storage.py`."""
