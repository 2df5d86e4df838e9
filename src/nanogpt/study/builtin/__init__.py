"""The studies that come with nanogpt: NAME.toml is the plan, NAME.py what it measures beyond its arms."""
