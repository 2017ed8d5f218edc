"""Steps that several flows share: hold the store, find the models, read the pool, compute what is new."""
