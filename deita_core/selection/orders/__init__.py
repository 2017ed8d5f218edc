"""Orders of candidates: each module computes the values that candidates are ranked by, the highest first."""
