"""Run rows of tokens through a model: which rows share a pass, what runs it, and how fast it is.

`Engine` runs any number of rows through a model, and the rows of which the model is unsure through a fallback. All
callers use it: `predict` of a model, `fastmux.predict`, `Labeller`, the server, `convert` and the benchmarks. The speed
that is measured anywhere is therefore the speed that users get.

A model is a `Runtime`: anything that takes padded batches of tokens. Only a runtime knows torch.
"""
