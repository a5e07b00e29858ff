"""From Matrix to the core: events, as JSON, become domain events. Pure."""
