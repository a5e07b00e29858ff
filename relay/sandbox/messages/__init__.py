"""Messages, threads and reactions: checked as Discord checks them, written, and rendered as JSON. Imports `world`."""
