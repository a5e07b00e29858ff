"""The rooms that the operator declared: which room each address names, how we join it, and what is known of it."""
