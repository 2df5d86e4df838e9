"""Published checkpoints in both directions: folders as on the Hugging Face hub, GGUF, llama2.c's .bin, minGPT's JSON.

A family is data (families/*.toml): how its config.json says our parts, and which of its tensors is which of ours.
"""
