"""What a lost event has left behind, and how it is made good."""
