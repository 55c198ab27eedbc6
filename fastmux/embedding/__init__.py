"""Embed rows of text: what `embed` and `Embedder` do, and what sentence-transformers' folders are to them.

An `EmbeddingConfig` (`config.py`) says how the states of an encoder become one vector: which pooling, which dense
layers, whether it is normalised; and which prompts the model knows. `read_embedding_config` (`folder.py`) reads it from
a folder of sentence-transformers, `load_embedding_model` (`model.py`) loads the folder as an `EmbeddingModel`: encoder,
pooling, dense layers and normalisation in one torch module, for plain encoders, joined models and T-MUX without a head.

    from fastmux.embedding.folder import read_embedding_config, write_embedding_config
    from fastmux.embedding.model import EmbeddingModel, load_embedding_model

    model, tokenizer = load_embedding_model("all-MiniLM-L6-v2")
    vectors = model(input_ids, attention_mask)              # (B, L) each -> (B, D)
    model.encoder                                           # the Hugging Face model, without its pooler
    model.embedding_config                                  # frozen; dataclasses.replace makes another one
    student = EmbeddingModel(JoinedModel.from_backbone(model.encoder, 2), model.embedding_config, model.dense)
"""
