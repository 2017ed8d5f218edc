"""How shards are run: where, with what progress, and how they are interrupted."""
