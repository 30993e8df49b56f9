"""The embed role: sampled texts of the events topic become unit vectors on the embeddings topic."""
