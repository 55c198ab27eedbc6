"""Tags of entities.

seqeval takes the first letter of a tag for its place in an entity and the rest for the type: of bare tags, ``ORG`` is
outside to it, as ``O`` is, and ``PER`` an entity "ER". Here tags are what a scheme says, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What tags may say: entities, in which words have a place and a type; types alone; or words one by one.
SCHEMES = ("entities", "types", "words")
OUTSIDE = "O"
#: A word's place in its entity: begin, inside, end, single, as in IOB, IOE, IOBES; last and unit of BILOU, middle of
#: BMES -> what seqeval calls it.
_PLACES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I"}
_TAG = re.compile(rf"([{''.join(_PLACES)}])-(.+)", re.DOTALL)


def seqeval_tags(names: Sequence[str], scheme: str = "entities") -> list[str]:
    """Tags as seqeval reads them right.

    Args:
        names: The tags' names. By "entities" they are ``O``, and ``B-PER`` and the like: any of `_PLACES` before a
            type; or the places alone, where there is one type. By "types" each but ``O`` is a type, and words side by
            side that have it are one entity.
        scheme: "entities" or "types".

    Raises:
        ValueError: Tags do not fit the scheme. The message names them.

    Example:
        >>> from fastmux.training.entities import seqeval_tags
        >>> seqeval_tags(["O", "B-PER", "L-PER"]), seqeval_tags(["O", "PER"], "types")
        (['O', 'B-PER', 'E-PER'], ['O', 'I-PER'])
    """
    inside = [name for name in names if name != OUTSIDE]
    prefixed = [name for name in inside if _TAG.fullmatch(name)]
    if scheme == "types":
        if inside and len(prefixed) == len(inside):
            raise ValueError(
                f"the tags {_some(inside)} say where an entity begins, expected types alone, such as PER, for "
                "--tag_scheme types: leave it out"
            )
        return [name if name == OUTSIDE else f"I-{name}" for name in names]
    if inside and all(name in _PLACES for name in inside):
        return [name if name == OUTSIDE else f"{_PLACES[name]}-_" for name in names]
    wrong = [name for name in inside if name not in prefixed]
    if wrong:
        raise ValueError(
            f"the tags {_some(wrong)} do not say where an entity begins, expected O, B-TYPE and I-TYPE (also E-, S-, "
            "L-, U- or M-TYPE); --tag_scheme types takes a tag for the type of all words side by side that have it, "
            "--tag_scheme words scores each word by itself"
        )
    if not inside:
        raise ValueError(f"there is no tag but {_some(names)}, expected tags of entities")
    return [name if name == OUTSIDE else _PLACES[name[0]] + name[1:] for name in names]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
