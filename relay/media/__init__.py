"""Files on their way from one side to the other."""
