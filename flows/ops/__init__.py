"""What `deita up` runs."""
