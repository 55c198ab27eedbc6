"""Requests that order texts by their score beside a query, as servers of rerankers take them.

There are two forms: ``texts`` get a list of index and score, as text-embeddings-inference gives it, and ``documents``
an object with ``results``, as Cohere, Jina and vLLM give it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, WithJsonSchema
from starlette.responses import Response

from fastmux.embedding.embedder import Embedder
from fastmux.labelling.checks import check_text
from fastmux.labelling.labeller import Labeller
from fastmux.labelling.labels import sigmoid
from fastmux.labelling.memory_rows import Tokenised, tokenised
from fastmux.serving.refused import Refused
from fastmux.serving.requests import parse

_TEXT = {"type": "string", "minLength": 1}
_DOCUMENT = {"anyOf": [_TEXT, {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]}]}


class _Request(BaseModel):
    # Clients of other servers send fields of their own, which change nothing here.
    model_config = ConfigDict(extra="ignore")

    query: str = Field(description="The query; each text is scored as the second of a pair whose first text it is.")
    raw_scores: StrictBool = Field(False, description="Give the model's own numbers, not their sigmoid.")
    truncate: StrictBool | None = Field(
        None, description="Cut pairs that are longer than the model has room for; with false they are refused."
    )
    copies: StrictInt | None = Field(None, description="As for /predict.")


class TextsRequest(_Request):
    """A query and texts, as text-embeddings-inference takes them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "a fine film", "texts": ["dull", "great"]}]})
    rows_field: ClassVar[str] = "texts"

    texts: Annotated[Any, WithJsonSchema({"type": "array", "items": _TEXT, "minItems": 1})] = Field(
        description="What is ordered."
    )
    return_text: StrictBool = Field(False, description="Give each text beside its score.")
    truncation_direction: str | None = Field(
        None, description="Accepted where it is the side on which the model's tokenizer cuts."
    )

    def result(self, index: int, score: float, text: str) -> dict:
        """What is said of one text."""
        return {"index": index, "score": score} | ({"text": text} if self.return_text else {})

    def content(self, results: list[dict], **said: Any) -> Any:
        """The whole answer."""
        return results


class DocumentsRequest(_Request):
    """A query and documents, as Cohere, Jina and vLLM take them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "a fine film", "documents": ["dull", "great"], "top_n": 1}]}
    )
    rows_field: ClassVar[str] = "documents"

    documents: Annotated[Any, WithJsonSchema({"type": "array", "items": _DOCUMENT, "minItems": 1})] = Field(
        description='What is ordered. A document is a text or {"text": ...}.'
    )
    top_n: StrictInt | None = Field(None, description="Give the best so many alone, or all if there are fewer.")
    return_documents: StrictBool = Field(False, description="Give each document beside its score.")
    model: str | None = Field(None, description="Accepted; a server has one model.")

    def result(self, index: int, score: float, text: str) -> dict:
        """What is said of one document."""
        document = {"document": {"text": text}} if self.return_documents else {}
        return {"index": index, "relevance_score": score} | document

    def content(self, results: list[dict], *, model: str, tokens: int, warnings: list[str]) -> Any:
        """The whole answer."""
        return {
            "id": f"rerank-{uuid.uuid4().hex}",
            "model": self.model or model,
            "results": results[: self.top_n],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        } | ({"meta": {"warnings": warnings}} if warnings else {})


class RerankEndpoint:
    """What a route does with a query and what is ordered by it. See `fastmux.serving.service.Endpoint`.

    Args:
        labeller: The model. One that gives pairs no score refuses every request, and says why.
        openai: Whether the route takes ``documents`` alone and has errors in OpenAI's shape; otherwise it takes
            either form.
    """

    name = "rerank"

    def __init__(self, labeller: Labeller | Embedder, openai: bool):
        self.labeller, self.openai = labeller, openai
        self.refusal = _refusal(labeller)
        if self.refusal is None and isinstance(labeller, Labeller):
            self._tokenizers = {cuts: labeller.pair_tokenizer(cuts) for cuts in (True, False)}

    def parse(self, body: bytes) -> TextsRequest | DocumentsRequest:
        """What is asked."""
        if self.refusal is not None:
            raise Refused(422, self.refusal)
        if self.openai or _has_documents(body):
            asked: TextsRequest | DocumentsRequest = parse(body, DocumentsRequest)
        else:
            asked = parse(body, TextsRequest)
        _check("query", "query", asked.query)
        if (top := getattr(asked, "top_n", None)) is not None and top < 1:
            raise Refused(422, f"top_n is {top}, expected an integer of at least 1", param="top_n")
        side = getattr(asked, "truncation_direction", None)
        own = self._tokenizers[True].side
        if side is not None and side.lower() != own:
            reason = f"truncation_direction is {side!r}, expected {own!r}, where the model's tokenizer cuts"
            raise Refused(422, reason, param="truncation_direction")
        return asked

    def rows(self, asked: TextsRequest | DocumentsRequest) -> list[str]:
        """The texts."""
        name = asked.rows_field
        rows = getattr(asked, name)
        kind = "text" if name == "texts" else 'text or {"text": ...}'
        if not isinstance(rows, list) or not rows:
            raise Refused(422, f"{name} is {str(rows)[:100]!r}, expected a list of at least one {kind}", param=name)
        found = []
        for index, row in enumerate(rows):
            text = row.get("text") if isinstance(row, Mapping) and name == "documents" else row
            if not isinstance(text, str):
                raise Refused(422, f"{name}[{index}] is {str(row)[:100]!r}, expected a {kind}", param=name)
            found.append(text)
        return found

    def tokenise(self, asked: TextsRequest | DocumentsRequest, rows: list[str]) -> list[Tokenised]:
        """The tokens of the query with each text.

        Raises:
            Refused: One cannot be scored, so that none is.
        """
        name = asked.rows_field
        for index, row in enumerate(rows):
            _check(name, f"{name}[{index}]", row)
        cuts = asked.truncate is not False
        found = []
        for index, one in enumerate(tokenised([(asked.query, row) for row in rows], self._tokenizers[cuts], "score")):
            if not isinstance(one, Tokenised):
                raise Refused(422, f"{name}[{index}], with the query: {one}", param=name)
            found.append(one)
        return found

    def response(
        self, asked: TextsRequest | DocumentsRequest, rows: list[str], found: Sequence, answers: Sequence
    ) -> Response:
        """The texts by their scores, the best first; of equal ones, the first of the request first."""
        name = asked.rows_field
        for index, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                raise Refused(500, f"{name}[{index}]: {answer}", param=name)
        logits = np.array([answer.columns["score"] for answer in answers], np.float64)
        scores = (logits if asked.raw_scores else sigmoid(logits)).tolist()
        order = np.argsort(-logits, kind="stable").tolist()
        cut = [index for index, row in enumerate(found) if row.cut]
        said = f"{len(cut)} of {len(rows)} documents were cut: with the query they have more than "
        content = asked.content(
            [asked.result(index, scores[index], rows[index]) for index in order],
            model=self.labeller.name,
            tokens=sum(row.length for row in found),
            warnings=[f"{said}{self.labeller.max_length} tokens"] if cut else [],
        )
        return Response(json.dumps(content, ensure_ascii=False, allow_nan=False), media_type="application/json")


def _refusal(labeller: Labeller | Embedder) -> str | None:
    """Why a model cannot score pairs; None if it can."""
    if not isinstance(labeller, Labeller):
        does, route = "embeds texts", "/v1/embeddings"
    elif labeller.gives_one_score:
        return None
    elif labeller.per_token:
        does, route = "labels tokens", "/predict"
    else:
        does, route = f"gives a row one of {len(labeller.labels)} labels", "/predict"
    return (
        f"the model {does}; reranking is for models with one score on pairs of texts (num_labels = 1), such as "
        f"cross-encoders. This one answers at {route}"
    )


def _has_documents(body: bytes) -> bool:
    """Whether a request has ``documents`` and no ``texts``. What is no JSON has neither."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "documents" in found and "texts" not in found


def _check(param: str, name: str, text: str) -> None:
    """Refuse a text that cannot be scored."""
    try:
        check_text(name, text)
    except ValueError as error:
        raise Refused(422, str(error), param=param) from error
