"""Messages: checked, created, edited, deleted, rendered."""
