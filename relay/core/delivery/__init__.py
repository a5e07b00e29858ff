"""Commands are carried out: one lane for each channel and the one it leads to, each command in order.

Knows nothing of `core.intake`: the outbox is between them. Calls the adapters through `core.ports.Adapter`.
"""
