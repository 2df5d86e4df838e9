"""The same numbers sooner: what PyTorch does slowly on some machine, done otherwise. No architecture knows of it."""
