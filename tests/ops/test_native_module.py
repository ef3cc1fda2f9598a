"""The functions of the compiled module as mypy sees them are those that it has."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from yfkernels.ops.native import loading
from yfkernels.ops.native.module import CudaModule, Module

pytestmark = pytest.mark.skipif(loading.compiled is None, reason=str(loading.reason))
# pybind11's words in its signatures, and ours
WORDS = {
    "SupportsInt": "int",
    "SupportsFloat": "float",
    "bool": "bool",
    "Sequence": "Sequence[int]",
    "TunerOptions": "Any",
    "GateArguments": "Any",
}
CUDA = hasattr(loading.compiled, "cuda_device_count")
FUNCTIONS = {
    name: function
    for protocol in ((Module, CudaModule) if CUDA else (Module,))
    for name, function in vars(protocol).items()
    if inspect.isfunction(function) and not name.startswith("_")
}


def compiled_arguments(name: str) -> list[str]:
    """The types in the signature that pybind11 writes into a docstring."""
    signature = str(getattr(loading.compiled, name).__doc__).splitlines()[0]
    words = re.findall(r"arg\d+: (?:[\w.]+\.)?(\w+)", signature)
    return [WORDS[word] for word in words]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments(name: str) -> None:
    parameters: list[Any] = list(inspect.signature(FUNCTIONS[name]).parameters.values())[1:]
    assert [p.annotation for p in parameters] == compiled_arguments(name)


def test_all_functions_are_described() -> None:
    own = {name for name in dir(loading.compiled) if not name.startswith("_")}
    classes = {"TunerOptions", "Watch"} | ({"GateArguments"} if CUDA else set())
    assert own == FUNCTIONS.keys() | classes
