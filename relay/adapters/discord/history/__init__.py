"""The REST history: what was said while the relay was away, and what an earlier try has already posted."""
