"""Events become commands: router and catch-up write them to the outbox, in one transaction with the cursor.

The adapters call it through `core.ports.Inbox`. It knows nothing of `core.delivery`: the outbox is between them.
"""
