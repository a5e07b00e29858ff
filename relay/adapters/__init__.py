"""The platforms: each folder implements `core.ports.Adapter`."""
