"""What happens inside a model while it trains: observers that attach from outside, and what they leave in a run."""
