"""The neutral text tree, from which every markup is written and into which it is read. Standard library only."""
