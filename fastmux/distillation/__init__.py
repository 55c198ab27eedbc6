"""Make a faster copy of a trained model, from text without labels."""
