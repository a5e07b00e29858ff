"""/sync: the loop of requests, their responses, and the gaps in them. Hands batches of events to the inbox."""
