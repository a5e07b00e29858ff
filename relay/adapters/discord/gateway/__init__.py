"""The gateway's dispatches become batches of events, in Discord's order. discord.py's objects stay in this folder."""
