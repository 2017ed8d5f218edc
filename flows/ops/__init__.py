"""The server, worker, watcher and deployments of `deita up`."""
