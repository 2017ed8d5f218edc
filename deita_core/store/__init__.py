"""The store: one LanceDB database with all data of a pool. The only package that imports lancedb."""

from deita_core.store.store import Store

__all__ = ["Store"]
