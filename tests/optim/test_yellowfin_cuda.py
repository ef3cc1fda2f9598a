"""What only a CUDA device can show: graphs, synchronisations, launches, streams, GradScaler."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.cases import MODES, Gradients, Site, assert_same_bits, normal, why_unusable

from bench.common.launches import work_of
from yfkernels import YellowFin

pytestmark = pytest.mark.cuda
SHAPES = ((300, 70), (65537,), (3,), (64, 3, 3, 3))
each_mode = pytest.mark.parametrize("mode", MODES)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(params=["native", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """The fused backends: plain torch synchronises and launches as it likes."""
    reason = why_unusable(Site(request.param, "cuda"))
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def make(
    rng: np.random.Generator, backend: str, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[list[torch.nn.Parameter], YellowFin, list[list[torch.Tensor]]]:
    """Parameters, an optimizer, and gradients with a spike and an infinity."""
    params = [
        torch.nn.Parameter(normal(rng, torch.empty(shape)).to("cuda", dtype)) for shape in SHAPES
    ]
    trace = Gradients(12, factor={6: 1e3}, poison={8: np.inf})
    gradients = [
        [g.to("cuda", dtype) for g in step if g is not None] for step in trace.draw(rng, params)
    ]
    return params, YellowFin(params, backend=backend, **options), gradients


def duplicate(
    params: list[torch.nn.Parameter], backend: str, **options: Any
) -> tuple[list[torch.nn.Parameter], YellowFin]:
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    return copies, YellowFin(copies, backend=backend, **options)


def set_gradients(params: list[torch.nn.Parameter], gradients: list[torch.Tensor]) -> None:
    """Into the same tensors every time, as a captured graph needs it."""
    for p, g in zip(params, gradients, strict=True):
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(g)


def capture(optimizer: YellowFin) -> torch.cuda.CUDAGraph:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph


@each_mode
@DTYPES
def test_graph_replay_equals_eager(
    dtype: torch.dtype, mode: str, backend: str, rng: np.random.Generator
) -> None:
    """Spike and skipped step included: every decision is taken on the device."""
    options = {
        **MODES[mode],
        "capturable": True,
        "weight_decay": 0.1,
        "max_norm": 50.0,
    }
    params, optimizer, gradients = make(rng, backend, dtype, **options)
    eager_params, eager = duplicate(params, backend, **options)
    for g in gradients:
        set_gradients(eager_params, g)
        eager.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for g in gradients[:3]:
            set_gradients(params, g)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = capture(optimizer)  # records, takes no step
    for g in gradients[3:]:
        set_gradients(params, g)
        graph.replay()
    torch.cuda.synchronize()

    assert optimizer.diagnostics()["step"] == 11
    assert optimizer.diagnostics()["skipped_steps"] == 1
    assert_same_bits([p.detach() for p in eager_params], [p.detach() for p in params])
    assert_same_bits(eager.state_dict(), optimizer.state_dict())
    assert_same_bits(eager.diagnostics(), optimizer.diagnostics())


@each_mode
def test_graph_of_the_whole_iteration(mode: str, backend: str, rng: np.random.Generator) -> None:
    """Forward, backward and step in one graph: the gradients live in the graph's own pool."""
    torch.manual_seed(int(rng.integers(2**31)))
    model = torch.nn.Sequential(
        torch.nn.Linear(40, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)
    ).cuda()
    reference = copy.deepcopy(model)
    x = torch.zeros(32, 40, device="cuda")
    batches = [normal(rng, x).to("cuda", torch.float32) for _ in range(10)]

    def iterate(m: torch.nn.Module, o: YellowFin) -> None:
        o.zero_grad(set_to_none=True)
        (m(x) - x.sum(1, keepdim=True)).square().mean().backward()
        o.step()

    options = {**MODES[mode], "capturable": True, "backend": backend}
    eager = YellowFin(reference.parameters(), **options)
    for batch in batches:
        x.copy_(batch)
        iterate(reference, eager)

    optimizer = YellowFin(model.parameters(), **options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for batch in batches[:3]:
            x.copy_(batch)
            iterate(model, optimizer)
    torch.cuda.current_stream().wait_stream(stream)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        iterate(model, optimizer)
    for batch in batches[3:]:
        x.copy_(batch)
        graph.replay()
    torch.cuda.synchronize()
    assert optimizer.diagnostics()["step"] == len(batches)
    # cuBLAS may choose another algorithm inside the capture: close, not equal.
    for p, q in zip(reference.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_graph_reads_a_tensor_lr(backend: str, rng: np.random.Generator) -> None:
    """A scheduler that fills a tensor lr is seen by the replays, as with torch's optimizers."""
    lr = torch.ones((), device="cuda")
    params, optimizer, gradients = make(rng, backend, capturable=True, lr=lr)
    for g in gradients[:3]:
        set_gradients(params, g)
        optimizer.step()
    graph = capture(optimizer)
    graph.replay()
    lr.zero_()
    before = [p.detach().clone() for p in params]
    graph.replay()
    assert_same_bits(before, [p.detach() for p in params])
    lr.fill_(1.0)
    graph.replay()
    assert not all(torch.equal(a, p) for a, p in zip(before, params, strict=True))


@each_mode
@DTYPES
@pytest.mark.parametrize("scaled", [False, True])
def test_no_synchronisation(
    *,
    scaled: bool,
    dtype: torch.dtype,
    mode: str,
    backend: str,
    rng: np.random.Generator,
    request: pytest.FixtureRequest,
) -> None:
    params, optimizer, gradients = make(rng, backend, dtype, **MODES[mode], capturable=True)
    for g in gradients[:2]:  # builds the table
        set_gradients(params, g)
        optimizer.step()
    if scaled:
        optimizer.grad_scale = torch.full((), 4.0, device="cuda")
        optimizer.found_inf = torch.zeros((), device="cuda")
    request.getfixturevalue("no_synchronisation")
    for g in gradients[2:]:
        for p, value in zip(params, g, strict=True):
            p.grad = value.clone()  # new addresses: the table's gradient column is refreshed
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.set_sync_debug_mode("default")
    assert optimizer.diagnostics()["skipped_steps"] == 1


def launches_of(mode: str, capturable: bool) -> int:
    """Measure, tune, advance. For the host, which then tunes, torch adds up the slots instead: the
    sums, and with the sketch the sketches as well, and one vector of both."""
    return 5 if mode == "sketch" and not capturable else 3


@each_mode
@DTYPES
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("count", [4, 3000])
def test_launches(
    *,
    count: int,
    capturable: bool,
    dtype: torch.dtype,
    mode: str,
    backend: str,
    rng: np.random.Generator,
) -> None:
    """Whatever the model: one tensor or thousands; torch's own kernels are counted like ours."""
    params = [torch.nn.Parameter(torch.ones(67, device="cuda", dtype=dtype)) for _ in range(count)]
    optimizer = YellowFin(params, backend=backend, **MODES[mode], capturable=capturable)
    for p in params:
        p.grad = normal(rng, p).to("cuda", dtype)
    for _ in range(2):  # compiles, and builds the plan, which takes minutes under the profiler
        optimizer.step()
    names = [work.name for work in work_of(optimizer.step) if work.is_kernel]
    assert 1 <= len(names) <= launches_of(mode, capturable), names


@each_mode
def test_capturable_equals_host_tuning(mode: str, backend: str, rng: np.random.Generator) -> None:
    """Host and device share the tuner's source; only ln and exp may differ in their last bits."""
    params, optimizer, gradients = make(rng, backend, **MODES[mode], capturable=True)
    host_params, host = duplicate(params, backend, **MODES[mode], capturable=False)
    for g in gradients:
        for ps, o in ((params, optimizer), (host_params, host)):
            set_gradients(ps, g)
            o.step()
    device_seen, host_seen = optimizer.diagnostics(), host.diagnostics()
    assert device_seen == pytest.approx(host_seen, rel=1e-9)
    for p, q in zip(params, host_params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_runs_on_the_current_stream(backend: str, rng: np.random.Generator) -> None:
    """Gradients that a side stream is still writing are waited for, by stream order alone."""
    params, optimizer, gradients = make(rng, backend, capturable=True)
    reference, other = duplicate(params, backend, capturable=True)
    stream = torch.cuda.Stream()
    for g in gradients[:5]:
        set_gradients(reference, g)
        other.step()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            set_gradients(params, g)
            optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
    assert_same_bits([p.detach() for p in reference], [p.detach() for p in params])


@pytest.mark.parametrize("capturable", [False, True])
def test_grad_scaler(capturable: bool, backend: str, rng: np.random.Generator) -> None:
    # fused: else GradScaler itself skips the step, and the optimizer hears nothing of it
    params, optimizer, gradients = make(rng, backend, capturable=capturable, fused=True)
    reference, other = duplicate(params, backend, capturable=capturable)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**12)
    scaler.scale(torch.ones((), device="cuda"))
    for g in gradients:
        scale = scaler.get_scale()
        set_gradients(params, [scale * x for x in g])
        set_gradients(reference, g)
        scaler.step(optimizer)
        scaler.update()
        other.step()
    assert optimizer.diagnostics() == other.diagnostics()
    assert optimizer.diagnostics()["skipped_steps"] == 1
    assert scaler.get_scale() == 2.0**11
    assert_same_bits([p.detach() for p in reference], [p.detach() for p in params])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_second_device_while_the_first_is_current(backend: str, rng: np.random.Generator) -> None:
    params, optimizer, gradients = make(rng, backend)
    far = [torch.nn.Parameter(p.detach().to("cuda:1")) for p in params]
    other = YellowFin(far, backend=backend)
    for g in gradients:
        set_gradients(params, g)
        set_gradients(far, [x.to("cuda:1") for x in g])
        optimizer.step()
        other.step()
    assert_same_bits([p.detach() for p in params], [p.detach().to("cuda:0") for p in far])


def test_allocates_nothing_after_the_first_step(backend: str, rng: np.random.Generator) -> None:
    params, optimizer, gradients = make(rng, backend, capturable=True)
    set_gradients(params, gradients[0])
    for _ in range(3):
        optimizer.step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(5):
        optimizer.step()
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
