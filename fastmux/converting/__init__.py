"""Make a faster copy of a trained model, of one structure, and say what it is worth."""
