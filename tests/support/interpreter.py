"""Triton's interpreter, made several times as fast."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from typing import Any


def patch_once() -> None:
    """Takes work out of the interpreter that changes no result."""
    _put_functions_in_once_a_launch()
    _compute_no_assertions_that_are_off()
    _find_types_by_name()


def _compute_no_assertions_that_are_off() -> None:
    """Integers of 32 bits are added once more in 64, for an assertion of debug mode.

    Outside of it nobody looks at what comes of these six operations for each addition,
    subtraction and multiplication.
    """
    from triton.runtime.interpreter import interpreter_builder as builder

    if getattr(builder.options, "sanitize_overflow", False) and not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _find_types_by_name() -> None:
    """NumPy's type for one of Triton's: the interpreter makes its table of them for each look."""
    from triton.runtime import interpreter

    def np_dtype(dtype: Any) -> Any:
        scalar = dtype.scalar
        key = "pointer" if scalar.is_ptr() else scalar.name
        if key not in found:
            found[key] = slow(dtype)
        return found[key]

    found: dict[str, Any] = {}
    slow = interpreter._get_np_dtype
    interpreter._get_np_dtype = np_dtype


def _put_functions_in_once_a_launch() -> None:
    """Lets the interpreter put its own functions into triton.language once a launch.

    It does so again for every call of a device function, in the middle of a kernel in which they
    are in place, and searches modules of hundreds of names for them each time. That took most of
    the time of the tests. What it replaces stays the same.
    """
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    @cache
    def builtins_of(package: Any) -> list[str]:  # asked for before any is replaced
        return [name for name, member in inspect.getmembers(package) if is_builtin(member)]

    def patch_builtin(package: Any, *rest: Any) -> None:
        for name in builtins_of(package):
            member = getattr(package, name)
            if is_builtin(member):  # not replaced yet
                interpreter._patch_attr(package, name, member, *rest)

    plain = interpreter._LangPatchScope

    class Scope(plain):  # type: ignore[misc, valid-type]
        def restore(self) -> None:
            in_place.clear()
            super().restore()

    def patch_lang(function: Any) -> Any:
        found = languages_of(function)
        if found <= in_place:
            return plain()  # nothing to put back
        scope = patch(function)
        in_place.update(found)
        return scope

    @cache
    def languages_of(function: Any) -> frozenset[Any]:
        modules = (interpreter.tl, interpreter.tl.core)
        named = function.__globals__.values()
        return frozenset(module for module in modules if any(module is value for value in named))

    in_place: set[Any] = set()
    patch = interpreter._patch_lang
    interpreter._patch_builtin = patch_builtin
    interpreter._LangPatchScope = Scope
    interpreter._patch_lang = patch_lang
