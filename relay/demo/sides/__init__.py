"""The two platforms of the demo: what people do there, and what a reader of each sees. The adapters are not used."""
