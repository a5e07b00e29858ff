"""What only SQLite needs: connections, pragmas, the writer that shares commits, and its errors."""
