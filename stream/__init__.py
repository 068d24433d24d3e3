"""The world around the model: one module per door, pure decisions, and one loop that joins them."""
