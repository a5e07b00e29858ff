"""Discord's message objects -> the core's events and contents. Pure."""
