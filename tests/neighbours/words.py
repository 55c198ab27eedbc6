"""A tokenizer of a few words, made without a file."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = "the a film was good bad dull and very one of best worst year ever seen".split()  # noqa: SIM905
TEXTS = [
    "the film was good",
    "a very dull film",
    "bad and bad",
    "one of the best",
    "the worst film of the year ever seen",
]


def words_tokenizer(pad_id: int = 0, model_max_length: int = 40, **options) -> PreTrainedTokenizerFast:
    """Splits at spaces; ``pad_id``, 0 or 1, is the padding token's."""
    special = ["[PAD]", "[UNK]"] if pad_id == 0 else ["[UNK]", "[PAD]"]
    special += ["[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=model_max_length, **names, **options)
