"""What follows from the events: tables that are a fold of them, and the reads over those tables."""
