"""Launches the nodes of one config, watches them, restarts them with back-off, and takes them down.

`loop.Supervisor` is the loop; `policy` decides on restarts; `process` is one node's process; `record` is what a
running supervisor leaves on disk for `quorumd status` and `quorumd down`; `probe` and `figures` collect what the
table shows; `display` shows it; `fresh` empties directories.
"""
