"""Parts from before transformers: counted n-grams, windows of words, recurrent networks, convolutions, averages."""
