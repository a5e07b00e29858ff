"""Matrix events, as JSON, become domain events. Pure."""
