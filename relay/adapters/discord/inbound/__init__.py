"""Discord's message objects become domain events. Pure."""
