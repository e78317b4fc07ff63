"""Was it linearizable? Histories of clients' operations, and what can be said of them without asking the cluster."""
