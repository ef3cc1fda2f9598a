"""The numbers and layouts that both languages have: any difference is refused when it is loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from yfkernels.ops.native import loading

pytestmark = pytest.mark.skipif(loading.compiled is None, reason=str(loading.reason))
RECORDS = ("row", "slot", "state", "group", "gate_state", "settings", "options")
RECORDS += ("projection", "projected")
CHOICES = ("seen", "places", "measures", "corrections")


def altered() -> Iterator[Any]:
    """(entry, layout) with one thing in it that is not the package's, for everything there is."""
    ours = loading.layout()
    for entry in RECORDS:
        for place in range(len(ours[entry]) - 1):
            theirs = copy.deepcopy(ours)
            names = theirs[entry]
            if names[place] != names[place + 1]:
                names[place], names[place + 1] = names[place + 1], names[place]
                yield pytest.param(entry, theirs, id=f"{entry}: {names[place + 1]} later")
    for name, value in ours["numbers"].items():
        theirs = copy.deepcopy(ours)
        theirs["numbers"][name] = value * (1 + 2.0**-52) if isinstance(value, float) else value + 1
        yield pytest.param("numbers", theirs, id=name)
    for entry in CHOICES:
        theirs = copy.deepcopy(ours)
        first, second, *_ = theirs[entry]
        theirs[entry][first], theirs[entry][second] = theirs[entry][second], theirs[entry][first]
        yield pytest.param(entry, theirs, id=entry)
    for entry in ("rules", "families", "projections"):
        for index, described in enumerate(ours[entry]):
            for key, value in described.items():
                theirs = copy.deepcopy(ours)
                other = value[::-1] if hasattr(value, "__len__") else value + 1
                theirs[entry][index][key] = other
                yield pytest.param(entry, theirs, id=f"{key} of {described['name']}")


def test_the_module_agrees() -> None:
    assert loading.differences(loading.compiled.layout()) == []


@pytest.mark.parametrize(("entry", "theirs"), list(altered()))
def test_a_module_that_differs_is_refused(
    entry: str, theirs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(layout=lambda: theirs)
    monkeypatch.setattr(loading, "import_module", lambda name: other)
    module, reason = loading._load()
    assert module is None
    assert reason is not None
    assert f"differ in {entry}; build it again" in reason
