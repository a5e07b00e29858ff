"""What `relay.settings` is made of: the forms of values, the sources they come from, and what is said of mistakes."""
