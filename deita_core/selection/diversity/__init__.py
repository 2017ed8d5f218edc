"""Rules of diversity besides the threshold: each takes candidates in rank order, as far as the limits admit them."""
