"""What is there once something is fitted: asked for as what it is, never as "it or None"."""

from __future__ import annotations

from typing import Generic, Self, TypeVar, overload

from ..errors import ArtifactError, ArtifactMissingError
from .base import COMMAND, Tokenizer

T = TypeVar("T")


def needed(part: T | None, name: str) -> T:
    """A part of a set of tokenizers (or what was made of it) that has to be there.

    Raises:
        ArtifactMissingError: it is not; the message names the command that makes it.
    """
    if part is None:
        raise ArtifactMissingError(f"a fitted {name} tokenizer", got="none", repair=f"run {COMMAND} tokenizer={name}")
    return part


class Fitted(Generic[T]):
    """State that a tokenizer has once it is fitted or loaded, as ``scaling_ = Fitted[ArcsinhScaling]()``.

    To read it earlier is an error, so that nobody who reads it has to ask whether it is there. ``del`` forgets it.

    Raises:
        ArtifactError: on reading; nothing was fitted or loaded.
    """

    def __set_name__(self, owner: type[Tokenizer], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, tokenizer: None, owner: type[Tokenizer]) -> Self: ...

    @overload
    def __get__(self, tokenizer: Tokenizer, owner: type[Tokenizer]) -> T: ...

    def __get__(self, tokenizer: Tokenizer | None, owner: type[Tokenizer]) -> Self | T:
        if tokenizer is None:
            return self
        if self._name not in vars(tokenizer):
            what = f"a fitted {tokenizer.name} tokenizer"
            raise ArtifactError(what, got="one without weights", repair="call fit() or load()")
        return vars(tokenizer)[self._name]

    def __set__(self, tokenizer: Tokenizer, value: T) -> None:
        vars(tokenizer)[self._name] = value

    def __delete__(self, tokenizer: Tokenizer) -> None:
        vars(tokenizer).pop(self._name, None)
