"""Files on their way from one platform to the other: opened, measured and checked, late ones fetched in the background.

`links` and `proxy` are for those that cannot cross. Implements `core.files.Files` and `MediaLinks`. Only
`composition` imports this; it imports core and domain, and asks adapters through a protocol.
"""
