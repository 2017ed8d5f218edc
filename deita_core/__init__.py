"""The Deita method as a library, usable from a notebook and without Prefect."""
