"""What /predict does with a request."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.responses import Response

from fastmux.labelling.labeller import Labeller
from fastmux.labelling.memory_rows import Tokenised
from fastmux.serving.groups import Answer
from fastmux.serving.refused import Refused
from fastmux.serving.requests import PredictRequest, parse


class PredictEndpoint:
    """Labels of a row, or of every row of a list. See `fastmux.serving.service.Endpoint`."""

    name, openai = "predict", False

    def __init__(self, labeller: Labeller):
        self.labeller = labeller

    def parse(self, body: bytes) -> PredictRequest:
        """What is asked."""
        return parse(body, PredictRequest)

    def rows(self, asked: PredictRequest) -> list:
        """The rows."""
        rows = asked.inputs if isinstance(asked.inputs, list) else [asked.inputs]
        if not rows:
            raise Refused(422, "inputs is an empty list, expected a row or a list of at least one row")
        return rows

    def tokenise(self, asked: PredictRequest, rows: list) -> list[Tokenised | ValueError]:
        """Their tokens; a row that cannot be labelled fails alone."""
        return self.labeller.tokenise(rows)

    def response(self, asked: PredictRequest, rows: list, found: Sequence, answers: Sequence) -> Response:
        """One object for one row, a list for a list; a row that failed has its error."""
        return _response(asked, answers, self.labeller.engine.fallback is not None)


def _response(asked: PredictRequest, answers: Sequence[Answer | Exception], cascade: bool) -> Response:
    """One object for one row, a list for a list; a row that failed has its error.

    The status is a failure only if no row has an answer.
    """
    rows, statuses = [], []
    for answer in answers:
        if isinstance(answer, Answer):
            details: dict = {"group": {"rows": answer.rows, "room": answer.room}}
            if cascade:
                details["fallback"] = answer.fallback
            rows.append(answer.columns | (details if asked.details else {}))
            statuses.append(200)
        else:
            rows.append({"error": str(answer)})
            statuses.append(422 if isinstance(answer, ValueError) else 500)
    status = min(statuses) if 200 in statuses else max(statuses)
    one = rows[0] if status == 200 else {"detail": rows[0]["error"]}
    content = rows if isinstance(asked.inputs, list) else one
    return Response(json.dumps(content, ensure_ascii=False), status, media_type="application/json")
