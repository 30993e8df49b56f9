"""`driftline baseline`: baselines fitted from stored traffic, published, listed."""
