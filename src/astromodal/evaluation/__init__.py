"""What a model is worth: trivial baselines on the same tokens, and predictions in physical units."""
