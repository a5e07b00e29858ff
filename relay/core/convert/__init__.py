"""What a channel cannot carry becomes what it can: files, formatting, length, references.

Pure: imports `relay.domain` only. Delivery and the adapters call it.
"""
