"""quorumd: a strongly consistent cluster daemon. One process is one node; see ARCHITECTURE.md."""

__version__ = "0.1.0"
