"""Files on their way from one platform to the other: opened, measured and checked, late ones fetched in the background.

Implements `core.ports.Files`. Only `app` imports it; it imports core and domain, and asks adapters through a protocol.
"""
