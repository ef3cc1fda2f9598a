"""find_hyper_lr: the step size of a learning rate, by short trials."""

from __future__ import annotations

import copy
import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from yfkernels._checks import check_positive, require
from yfkernels.curvature.surroundings import Buffers, RandomStates
from yfkernels.optim._tuned_lr import last_tuning
from yfkernels.optim.hd import HD
from yfkernels.optim.marthe import MARTHE

DIVERGED = 10.0  # times the first loss
OPTIONS = ("hyper_lr", "alpha")
FIRST_HYPER_LRS = {"normalized": 4.0, "multiplicative": 0.5, "additive": 1.0}
FIRST_ALPHA = 1e-3


class Stateful(Protocol):
    """What can be put back: a learning-rate scheduler, a stateful data loader."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any) -> None: ...


Trial: TypeAlias = Callable[[], Iterable[Tensor | float]]


def find_hyper_lr(
    tuner: HD | MARTHE,
    trial: Trial,
    *,
    model: nn.Module,
    option: str = "hyper_lr",
    first: float | None = None,
    factor: float = 10.0,
    trials: int = 12,
    others: Iterable[Stateful | torch.Generator] = (),
) -> float:
    """Finds the largest step size of the learning rate with which a short training holds.

    Runs trials from where the training stands, with `option` falling by `factor`, until one holds:
    every loss is finite and at most ten times the first, and no learning rate is tuned to 0, from
    where little is learned whatever the loss does. After each trial the model, the tuner and its
    base, the random states (torch, Python, NumPy) and `others` are put back bit for bit, so that
    the trials see the same data in the same order, and the training after them too. The tuner
    keeps its form.

    What holds for a short trial may be too much for a long training: take a tenth of it there, or
    longer trials.

    Args:
        tuner: HD, MARTHE or RTHO. Its option has the value that was found afterwards.
        trial: a short piece of the training loop: takes some steps with the tuner, some 20 to 100,
            and yields the training loss of each. It is called once for each value, and draws its
            data as the training will: a DataLoader is iterated anew.
        model: whose parameters the tuner has; its buffers are put back too.
        option: "hyper_lr", or "alpha" of MARTHE.
        first: the value to begin with. Default: hyper_lr 1, in the normalized form 4 and in the
            multiplicative one 0.5; alpha 1e-3.
        factor: between a value and the next, above 1.
        trials: how many at most.
        others: what else a trial changes: generators of data loaders, schedulers.

    Returns:
        The value.

    Raises:
        TypeError, ValueError: an argument cannot be used; an error of `trial` comes through.
            Everything is as it was then.
        RuntimeError: no trial held.

    Source: the search that AdaTune (Donini et al., arXiv 1910.08525) announces.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = HD(torch.optim.SGD(model.parameters(), lr=0.1), form="additive")
        >>> def trial():
        ...     for _ in range(20):
        ...         opt.zero_grad()
        ...         loss = model(torch.ones(1, 4)).square().sum()
        ...         loss.backward()
        ...         opt.step()
        ...         yield loss
        >>> find_hyper_lr(opt, trial, model=model) <= 1.0
        True
    """
    if not isinstance(tuner, HD | MARTHE):
        raise TypeError(f"Invalid tuner type: {type(tuner).__name__}; give HD, MARTHE or RTHO")
    known = [name for name in OPTIONS if hasattr(tuner, name)]
    require(option in known, "option", option, f"one of {', '.join(known)}")
    check_positive("factor", factor)
    require(factor > 1.0, "factor", factor, "above 1")
    require(isinstance(trials, int) and trials >= 1, "trials", trials, "a whole number from 1 on")
    if not callable(trial):
        raise TypeError(
            f"Invalid trial type: {type(trial).__name__}; give the function that yields losses, "
            "not what it returns"
        )
    others = list(others)
    for other in others:
        if not isinstance(other, torch.Generator) and not hasattr(other, "load_state_dict"):
            raise TypeError(
                f"Invalid type in others: {type(other).__name__}; give generators, such as "
                "loader.generator, and what has a state_dict"
            )
    known_params = {id(p) for p in model.parameters()}
    tuned = [p for group in tuner.base.param_groups for p in group["params"]]
    outside = sum(id(p) not in known_params for p in tuned)
    require(
        not outside,
        "model",
        type(model).__name__,
        f"the one with the parameters that are tuned: {outside} of {len(tuned)} are not in it",
    )
    if first is None:
        first = FIRST_ALPHA if option == "alpha" else FIRST_HYPER_LRS[tuner.form]
    check_positive("first", first)

    for value in (first / factor**k for k in range(trials)):
        with _put_back(tuner, option, model, others):
            setattr(tuner, option, value)
            held = _holds(tuner, trial())
        if held:
            setattr(tuner, option, value)
            return value
    raise RuntimeError(
        f"The training diverged with every {option} from {first:g} down to {value:g}; start from a "
        "smaller lr, or from a smaller first value"
    )


def _holds(tuner: HD | MARTHE, losses: Iterable[Tensor | float]) -> bool:
    first = None
    if not isinstance(losses, Iterable):
        raise TypeError(
            f"Invalid result of trial: {type(losses).__name__}; let it yield the loss of each step"
        )
    for each in losses:
        loss = float(each.detach() if isinstance(each, Tensor) else each)
        first = loss if first is None else first
        if not math.isfinite(loss) or loss > DIVERGED * abs(first):
            return False
    require(first is not None, "trial", "no loss", "a generator that yields the loss of each step")
    return all(last_tuning(group).lr > 0.0 for group in tuner.base.param_groups)


@contextmanager
def _put_back(
    tuner: HD | MARTHE, option: str, model: nn.Module, others: list[Stateful | torch.Generator]
) -> Iterator[None]:
    """Afterwards everything is what it was, bit for bit."""
    tensors = list(model.parameters())
    contents = [t.detach().clone() for t in tensors]
    buffers = Buffers()
    buffers.keep(model.modules())
    modes = [(module, module.training) for module in model.modules()]
    grads = [(p, p.grad) for p in model.parameters()]
    value, state = getattr(tuner, option), copy.deepcopy(tuner.state_dict())
    groups, lrs = tuner.base.param_groups, [group["lr"] for group in tuner.base.param_groups]
    states = [copy.deepcopy(_state_of(other)) for other in others]
    torch_states, python_state, numpy_state = RandomStates(tensors), random.getstate(), _numpy()
    for p in model.parameters():
        p.grad = None  # a trial's own, so that these stay what they are
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, content in zip(tensors, contents):
                tensor.copy_(content)
        buffers.put_back()
        for module, training in modes:
            module.training = training
        for p, grad in grads:
            p.grad = grad
        setattr(tuner, option, value)
        tuner.load_state_dict(state)
        _keep_objects(tuner, groups, lrs)
        for other, kept in zip(others, states):
            if isinstance(other, torch.Generator):
                other.set_state(kept)
            else:
                other.load_state_dict(kept)
        torch_states.put_back()
        random.setstate(python_state)
        if numpy_state is not None:
            sys.modules["numpy"].random.set_state(numpy_state)


def _keep_objects(tuner: HD | MARTHE, groups: list[dict[str, Any]], lrs: list[Any]) -> None:
    """The groups and learning rates that the user may hold, with the values that were loaded."""
    for group, lr, loaded in zip(groups, lrs, tuner.base.param_groups, strict=True):
        if isinstance(lr, Tensor):
            lr.copy_(loaded["lr"])
            loaded["lr"] = lr
        group.clear()
        group.update(loaded)
    tuner.base.param_groups = groups


def _state_of(other: Stateful | torch.Generator) -> Any:
    return other.get_state() if isinstance(other, torch.Generator) else other.state_dict()


def _numpy() -> Any:
    """The state of NumPy's global generator, where NumPy is in use."""
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()
