#!/usr/bin/env bash
# model2vec 0.10.0: `max_length` is said to be a number of tokens. Before a text is tokenised it is cut to so many characters
# as max_length times the median length of the vocabulary's entries, so that a text of words longer than these loses tokens
# that max_length allows: here each text has four words, max_length is 8, and the last word no longer counts. A static model
# that stands beside an encoder of the same max_length therefore reads less of such a text. Compare with max_length=None, or
# with as many tokens more as the longest words need.
# Seen: of two texts that differ in their fourth word alone, the vectors are the same at max_length 8 (48 characters are kept)
# and differ at 16 and without a limit; with short words they differ at 8. Fails where that is no longer so.
set -euo pipefail

work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && python="$work/venv/bin/python"
"$python" -m pip install --quiet model2vec==0.10.0 tokenizers numpy

cd "$work" && "$python" - <<'PYTHON'
import logging
from importlib.metadata import version

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

logging.disable(logging.WARNING)
print("model2vec", version("model2vec"))
long = ["pharmacokinetics", "electrophoresis", "immunohistochemistry", "thrombocytopenia", "bronchodilators"]
words = ["[UNK]", *long, *(f"word{k:02}" for k in range(40))]  # the median has six letters
tokenizer = Tokenizer(WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = Whitespace()
vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
model = StaticModel(vectors, tokenizer)


def alike(first: str, second: str, most: int | None) -> bool:
    assert len(tokenizer.encode(first).ids) == len(tokenizer.encode(second).ids) == 4
    one, other = model.encode([first, second], max_length=most)
    return bool(np.allclose(one, other))


start = " ".join(long[:3])
found = {most: alike(f"{start} {long[3]}", f"{start} {long[4]}", most) for most in (8, 16, None)}
short = alike("word01 word02 word03 word04", "word01 word02 word03 word05", 8)
for most, same in found.items():
    print(f"max_length {most}, four long words: the last one {'does not count' if same else 'counts'}")
print(f"max_length 8, four short words: the last one {'does not count' if short else 'counts'}")
assert found == {8: True, 16: False, None: False} and not short, "max_length no longer cuts characters in that way"
PYTHON
