"""The store: message map, outbox and cursors in one SQLite file."""
