"""A recipe that trains in seconds; tests add axes, contenders and tables."""

SMALL = """
title = "A small one"
source = "A source."
data = "faces,size=32,n=160"
metrics = ["accuracy"]
judge = "none"
sample = 30
seeds = 2
[training]
steps = 2
batch = 16
[[contenders]]
name = "ccvae"
model = "ccvae"
[[contenders]]
name = "goes on"
model = "ccvae"
after = "ccvae"
training = { learning_rate = 1e-9 }
"""
