"""The kinds of answers that two models may share: labels of rows, labels of words, or the neighbours of vectors. A kind
says how it is spoken of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of answers.

    Attributes:
        name: "rows" or "words" with labels, or "vectors".
        usual: The agreement that is asked for where neither it nor a speed is given.
        same: What models that agree have in common.
        gives: What a model gives: a sentence's end, with the share in it.
        axis: What the picture's share is of.
        floor, floor_does: What words alone are learnt by, in the table and in the sentence.
        command: Runs the chosen model; None where the sentence has another command or none.
        card: What the card says of the table's figures.
    """

    name: str
    usual: float
    same: str
    gives: str
    axis: str
    floor: str
    floor_does: str
    command: str | None
    card: str

    @property
    def embeds(self) -> bool:
        """Whether the answers are vectors."""
        return self is VECTORS


def _labels(name: str, label: str) -> Kind:
    return Kind(
        name=name,
        usual=0.98,
        same="the same labels",
        gives=f"gives {{share}} of the {name} the same {label}",
        axis=f"share of {name} with the original's label",
        floor="TF-IDF, logistic regression",
        floor_does="TF-IDF with a logistic regression gives",
        command=None,
        card=f"*same labels* is the share of {name} with the original's label",
    )


ROWS, WORDS = _labels("rows", "labels"), _labels("words", "label")
#: Of a conversion, which does not know where words begin.
TOKENS = _labels("tokens", "label")
VECTORS = Kind(
    name="vectors",
    usual=0.8,
    same="the same neighbours",
    gives="finds {share} of each text's ten nearest neighbours",
    axis="share of the ten nearest neighbours that are found",
    floor="TF-IDF, ridge regression",
    floor_does="TF-IDF with a ridge regression on your model's vectors gives",
    command="fastmux embed {folder} ROWS --output vectors.parquet",
    card="*same neighbours* is the share of each text's ten nearest neighbours among these rows, by the original's "
    "vectors, that are among the ten nearest by the model's",
)
KINDS = {kind.name: kind for kind in (ROWS, WORDS, VECTORS)}
