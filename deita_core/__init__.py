"""The Deita method as a library: usable from a notebook, and knowing nothing of Prefect."""
