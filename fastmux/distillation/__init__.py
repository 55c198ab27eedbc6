"""A trained model becomes a faster one that says the same, from text without labels."""
