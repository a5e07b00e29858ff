"""What people may ask of the relay: commands and their answers, in words that fit every platform."""
