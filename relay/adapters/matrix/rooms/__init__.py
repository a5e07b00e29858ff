"""The declared rooms: aliases, joins, upgrades, and the state that is known of each."""
