"""The page report.html: figures of a finished selection, its rows, and a map of them, in one file without a network."""
