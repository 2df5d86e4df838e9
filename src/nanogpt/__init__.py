"""nanogpt: a laboratory for studying modern LLM architectures by building small language models."""
