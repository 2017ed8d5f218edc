"""The stages of an evolution: seeds to chains, chains to rankings, files."""
