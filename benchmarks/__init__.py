"""Side by side with the plain way of doing the same; each module prints its table when it is run."""
