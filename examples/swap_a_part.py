"""Does a gated feed-forward help? Two runs of one seed that differ in one part, and what each writes.

python examples/swap_a_part.py
"""

import nanogpt as ng

SETTINGS = ["data.corpus=python", "model.n_layers=3", "train.steps=150"]

model = ng.build("modern", n_layers=3)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")

for ffn in ("mlp(act=gelu)", "swiglu"):
    run = ng.train("modern", *SETTINGS, f"model.ffn={ffn}", quiet=True)
    loaded = ng.load(run)
    score = loaded.evaluate("val")
    print(f"{ffn}: {score['loss']:.3f} nats per token, {score['bpb']:.3f} bits per byte, in {run.path}")
    print(loaded.sample("def ", tokens=60, temperature=0.7))
