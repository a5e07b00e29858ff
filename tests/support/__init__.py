"""What several tests need: platforms in memory, real servers, and helpers."""
