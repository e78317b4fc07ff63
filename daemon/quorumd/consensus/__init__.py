"""Consensus engines: deterministic, sans-IO, interchangeable. `engine.py` is the contract."""
