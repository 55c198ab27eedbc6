"""Train a student on the outputs of its original, from text without labels."""
