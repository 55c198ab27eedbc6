"""The threshold of a cascade: given, or read from ``cascade.json`` in the model's folder, where `calibrate` puts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmux.files import read_json
from fastmux.settings import Number

if TYPE_CHECKING:
    from fastmux.labelling.loading import AnyClassifier

CASCADE = "cascade.json"
_CONFIDENCE = Number(False, 0, 1)


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found, which is also the content of ``cascade.json``.

    Attributes:
        min_confidence: Rows of which the model is less sure go through the fallback.
        target_agreement: The share of the rows that is to get the fallback's label.
        agreement: The share that did, of rows that did not choose the threshold.
        agreement_interval: Its 95 % interval.
        agreement_alone: The share that has the fallback's label without the fallback.
        fallback_share: The share of the rows that went on to the fallback.
        rows: The number of rows on which all of this was found.
        copies: The slots of a multiplexed model that each row took.
        fallback: The digest of the fallback.
        rows_per_second: The speed of "model", "fallback" and "cascade", each alone, in turns, without tokenising.
    """

    min_confidence: float
    target_agreement: float
    agreement: float
    agreement_interval: tuple[float, float]
    agreement_alone: float
    fallback_share: float
    rows: int
    copies: int
    fallback: str
    rows_per_second: dict[str, float]

    @property
    def speed_up(self) -> float:
        """How many times as fast as the fallback alone the cascade is."""
        return self.rows_per_second["cascade"] / self.rows_per_second["fallback"]

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a ``cascade.json``.

        Raises:
            ValueError: It is damaged or of another version.
        """
        try:
            given: dict[str, Any] = read_json(path)
            found = cls(**{**given, "agreement_interval": tuple(given["agreement_interval"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); run fastmux calibrate again") from error
        if found.min_confidence not in _CONFIDENCE:
            raise ValueError(f"{path} has min_confidence {found.min_confidence!r}, expected {_CONFIDENCE}")
        return found

    def check(self, fallback: AnyClassifier) -> None:
        """Raise ValueError for another fallback than it was found with. This reads all of the fallback's weights."""
        if fallback_digest(fallback) != self.fallback:
            raise ValueError(
                f"the fallback is another model than the one that {CASCADE} was made with; give min_confidence, or run "
                "fastmux calibrate with this fallback"
            )

    def check_copies(self, copies: int) -> None:
        """Raise ValueError for another number of copies than it was found with."""
        if copies != self.copies:
            raise ValueError(
                f"copies is {copies}, but {CASCADE} was made with {self.copies}; give min_confidence, or run fastmux "
                f"calibrate with copies = {copies}"
            )


def fallback_digest(fallback: AnyClassifier) -> str:
    """The digest of a model; of an exported one, that of the model that it was exported from."""
    record = getattr(fallback, "record", None)
    return fallback.fingerprint()["model"] if record is None else record.made_from["model"]


def stored_calibration(model: object, fallback: object, min_confidence: float | None) -> Calibration | None:
    """What `calibrate` found for a model, if there is a fallback and no threshold is given; None otherwise.

    Raises:
        ValueError: There is a threshold without a fallback, or it is no probability; or a fallback without a threshold,
            and the model's folder has none.
    """
    if min_confidence is not None and min_confidence not in _CONFIDENCE:
        raise ValueError(f"min_confidence is {min_confidence!r}, expected {_CONFIDENCE}")
    if fallback is None and min_confidence is not None:
        raise ValueError("min_confidence is given without fallback, the model for the rows below it")
    if fallback is None or min_confidence is not None:
        return None
    if isinstance(model, (str, os.PathLike)) and (path := Path(model) / CASCADE).is_file():
        return Calibration.load(path)
    raise ValueError(
        f"fallback is given without min_confidence, and the model has no {CASCADE} that says it; `fastmux calibrate` "
        "finds it and writes that file"
    )
