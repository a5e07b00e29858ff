"""The platforms: each folder implements `core.ports.Adapter` with the same file names."""
