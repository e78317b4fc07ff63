"""Multi-Paxos (Lamport, "Paxos Made Simple"; van Renesse & Altinbuken, "Paxos Made Moderately Complex")."""
