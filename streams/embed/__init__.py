"""The embed role: sampled texts of the events topic become unit vectors, with their languages, on the embeddings
topic."""
