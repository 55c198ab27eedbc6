"""Rows of tokens in, logits out: which rows share a pass, what runs it, how fast it is.

`Engine` runs any number of rows through a model, and through a fallback those of which the model is unsure. Every
caller uses it: `predict` of a model, `fastmux.predict`, `Labeller`, the server, `convert` and the benchmarks. The speed
that is measured anywhere is therefore the speed that users get.

A model is a `Runtime`: whatever takes padded token batches. Nothing else here knows torch.
"""
