"""Find the fastest model that answers as a given one does, or the best of a given speed, from text without labels."""
