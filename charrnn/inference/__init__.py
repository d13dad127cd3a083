"""Use a trained model: step it, sample from it, search, compress."""
