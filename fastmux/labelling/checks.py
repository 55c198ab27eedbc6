"""What a row must be so that it can be labelled; a ValueError says why one cannot."""

from __future__ import annotations


def check_text(name: str, text: object) -> str:
    """The text that ``name`` is: not empty, without NUL and half characters."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text, got {str(text)[:100]!r}")
    if not text.strip():
        raise ValueError(f"{name} is empty")
    _check_characters(name, text)
    return text


def check_words(name: str, words: object) -> list[str]:
    """The list of words that ``name`` is."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{name} must be a list of words, got {str(words)[:100]!r}")
    if not any(word.strip() for word in words):
        raise ValueError(f"{name} is empty")
    for word in words:
        _check_characters(name, word)
    return words


def _check_characters(name: str, text: str) -> None:
    if "\0" in text:
        raise ValueError(f"{name} holds a NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a character: {error}") from error
