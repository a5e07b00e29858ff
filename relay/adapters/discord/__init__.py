"""Discord, through discord.py, which does not leave this folder."""
