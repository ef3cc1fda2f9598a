"""Parameters and gradients as views of flat tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yfkernels.asynchronous import FlatBuffers


def convolution() -> nn.Module:
    """Odd sizes, two layouts, a tied and a frozen parameter, buffers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 3, 1), nn.Linear(2, 2, bias=False)
    )
    model[0].to(memory_format=torch.channels_last)
    model[2].bias.requires_grad_(False)
    model[3].weight = nn.Parameter(model[3].weight.detach().bfloat16())
    return model


def test_parameters_keep_their_values_and_share_memory() -> None:
    model = convolution()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    buffers = FlatBuffers(model)
    assert [flat.dtype for flat in buffers.parameters] == [torch.float32, torch.bfloat16]
    for name, param in model.named_parameters():
        assert param.equal(before[name])
    for param in buffers.params:
        flats = zip(buffers.parameters, buffers.gradients)
        flat, gradient = next(pair for pair in flats if pair[0].dtype == param.dtype)
        assert param.data_ptr() % 64 == 0
        assert param.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        assert param.grad is not None
        assert param.grad.untyped_storage().data_ptr() == gradient.untyped_storage().data_ptr()
        assert param.grad.data_ptr() - gradient.data_ptr() == param.data_ptr() - flat.data_ptr()
    assert not model[2].bias.grad


def test_backward_adds_to_the_flat_gradient() -> None:
    model, plain = convolution(), convolution()
    buffers = FlatBuffers(model)
    x = torch.randn(2, 3, 4, 4)
    for each in (model, plain):
        each[:3](x).square().sum().backward()
    gradients = [p.grad for p in plain.parameters() if p.requires_grad]
    for param, expected in zip(buffers.params, gradients):
        wanted = torch.zeros_like(param) if expected is None else expected
        torch.testing.assert_close(param.grad, wanted)
    total = sum(float(p.grad.double().sum()) for p in buffers.params)
    assert sum(float(flat.double().sum()) for flat in buffers.gradients) == pytest.approx(total)
    views = [param.grad for param in buffers.params]
    nn.Module.zero_grad(model)  # sets them to None
    buffers.params[0].grad = torch.ones_like(buffers.params[0])
    buffers.zero_grad()
    assert all(param.grad is view for param, view in zip(buffers.params, views))
    assert not any(gradient.any() for gradient in buffers.gradients)


def test_a_parameter_listed_twice_is_one() -> None:
    param = nn.Parameter(torch.ones(16))
    assert len(FlatBuffers([param, param]).parameters[0]) == 16


def test_a_worker_takes_what_it_pulled() -> None:
    server, worker = FlatBuffers(convolution()), FlatBuffers(convolution())
    for flat in server.parameters:
        flat.add_(1.0)
    worker.copy_from(server.parameters)
    for mine, theirs in zip(worker.params, server.params):
        assert mine.equal(theirs)
    with pytest.raises(ValueError, match=r"parameters value: \[.*; it must be those of the same"):
        worker.copy_from(server.parameters[:1])


def test_bad_models_are_named() -> None:
    with pytest.raises(ValueError, match="Invalid model value"):
        FlatBuffers(nn.Linear(2, 2).requires_grad_(False))
    complex_one = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    for bad in (complex_one, nn.Parameter(torch.ones(2, device="meta"))):
        with pytest.raises(TypeError, match="parameter 1 of shape"):
            FlatBuffers([nn.Parameter(torch.ones(1)), bad])
