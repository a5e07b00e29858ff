"""/sync: the loop, its requests and responses, and timelines that it left incomplete. Hands batches to the inbox."""
