"""Check that the text of a row can be labelled; a ValueError says why it cannot."""

from __future__ import annotations


def check_text(name: str, text: object) -> str:
    """Return a text that is not empty and has no NUL and no half characters."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text, got {str(text)[:100]!r}")
    if not text.strip():
        raise ValueError(f"{name} is empty")
    _check_characters(name, text)
    return text


def check_words(name: str, words: object) -> list[str]:
    """Return a list of words that is not empty and has no NUL and no half characters."""
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
