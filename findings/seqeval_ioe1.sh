#!/usr/bin/env bash
# seqeval 1.2.2, strict mode, scheme IOE1: E marks the end of an entity that another of the same type follows at once.
# An entity of one word in that place, E-PER before I-PER, is not found: of the two entities in E-PER I-PER only the
# second one counts. A tagger that misses such an entity is not charged for it (F1 1.0 below), and one that finds it gets
# no credit. Entity counts of IOE1 data come out too low.
# Until that changes, convert IOE1 tags to IOB2, IOE2 or IOBES before you score.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && python="$work/venv/bin/python"
"$python" -m pip install --quiet setuptools wheel 'numpy<3'
"$python" -m pip install --quiet seqeval==1.2.2

cd "$work" && "$python" - <<'PY'
import sys
from importlib.metadata import version

from seqeval.metrics import f1_score
from seqeval.scheme import IOB2, IOE1, Entities

print("seqeval", version("seqeval"))


def spans(tags, scheme):
    return [(entity.start, entity.end, entity.tag) for entity in Entities([tags], scheme).entities[0]]


found = spans(["E-PER", "I-PER"], IOE1)
print("E-PER I-PER as IOE1:", found, "right is [(0, 1, 'PER'), (1, 2, 'PER')]")
print("B-PER B-PER as IOB2, the same entities:", spans(["B-PER", "B-PER"], IOB2))
missed = f1_score([["E-PER", "I-PER", "O"]], [["O", "I-PER", "O"]], mode="strict", scheme=IOE1)
same = f1_score([["B-PER", "B-PER", "O"]], [["O", "B-PER", "O"]], mode="strict", scheme=IOB2)
print(f"one of two entities predicted: F1 {missed:.3f} as IOE1, {same:.3f} as IOB2, which is right")
if (found, missed) != ([(1, 2, "PER")], 1.0):
    sys.exit("seqeval behaves differently from what is written above")
PY
