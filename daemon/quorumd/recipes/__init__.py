"""Coordination recipes: locks, elections, queues and more, on the store's keys, leases and watches."""
