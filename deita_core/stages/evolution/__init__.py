"""The stages of an evolution: evolve seeds to chains, rank chains, export files."""
