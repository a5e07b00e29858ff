"""Discord, through discord.py for the gateway and requests of our own. discord.py is used in this folder only.

`composition.py` makes an `adapter.DiscordAdapter`; what looks without one (`doctor`, `setup`) uses `survey`.
"""
