"""Whose messages are kept from crossing, and what bans of one side mean for the other. Platform-free."""
