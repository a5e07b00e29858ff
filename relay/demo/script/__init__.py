"""The scripted conversation that `relay demo --once` plays and checks, line by line."""
