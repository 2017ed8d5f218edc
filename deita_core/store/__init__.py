"""The store: one LanceDB database with everything known about a pool. The only package that imports lancedb."""

from deita_core.store.store import Store

__all__ = ["Store"]
