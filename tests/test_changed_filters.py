"""`Scattering2D` whose filters or settings are changed after construction: kymatio's buffers are the truth."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from torch.func import functional_call, grad, vmap
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scatsimclr import Scattering2D

SHAPE = (24, 20)


@pytest.fixture
def pair():
    return Scattering2D(2, SHAPE, L=4), ScatteringTorch2D(2, SHAPE, L=4)


@pytest.fixture
def x():
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))


def same(ours, theirs, x):
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-6)


def halve(filters):
    filters.mul_(0.5)


def replace_data(filters):
    filters.data = filters.data * 0.5


def change_data(filters):
    filters.data.mul_(0.5)


def change_numpy(filters):
    filters.numpy()[...] *= 0.5


def change_one(filters):
    filters[3, 2] += 0.25


@pytest.mark.parametrize("change", [halve, replace_data, change_data, change_numpy, change_one])
@pytest.mark.parametrize("name", ["tensor0", "tensor1", "tensor3", "tensor9"])
def test_a_filter_that_changes(pair, x, change, name):
    before = pair[0](x)
    with torch.no_grad():
        for module in pair:
            change(getattr(module, name))
    same(*pair, x)
    assert not torch.allclose(pair[0](x), before, rtol=1e-3)
    leaf = x.clone().requires_grad_()
    theirs = x.clone().requires_grad_()
    for module, of in zip(pair, (leaf, theirs), strict=True):
        module(of).square().sum().backward()
    torch.testing.assert_close(leaf.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_filter_that_is_replaced(pair, x):
    for module in pair:
        module.tensor4 = module.tensor4 * 2
    same(*pair, x)


def test_state_that_is_loaded(pair, x):
    state = {name: value * 1.5 for name, value in pair[1].state_dict().items()}
    for assign in (False, True):
        for module in pair:
            module.load_state_dict(state, assign=assign)
        same(*pair, x)
        state = {name: value * 0.5 for name, value in state.items()}


def test_functional_call(pair, x):
    ours, theirs = pair
    before = ours(x)
    for factor in (0.5, 1.5, 0.5):  # tensors that are freed and made again at the same address
        state = {name: value * factor for name, value in theirs.state_dict().items()}
        torch.testing.assert_close(
            functional_call(ours, state, (x,)), functional_call(theirs, state, (x,)), rtol=1e-4, atol=1e-6
        )
    assert torch.equal(ours(x), before)


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.5), get_ema_multi_avg_fn(0.95)])
def test_an_averaged_model(pair, x, average):
    ours, theirs = pair
    averaged = [AveragedModel(module, use_buffers=True, multi_avg_fn=average) for module in pair]
    for step in range(4):
        for model, module in zip(averaged, pair, strict=True):
            model.update_parameters(module)
        same(*averaged, x)
        if step < 2:
            with torch.no_grad():
                for module in pair:
                    module.tensor2.mul_(1.5)
    same(ours, theirs, x)


def test_every_buffer_is_kymatios(pair):
    assert [name for name, _ in pair[0].named_buffers()] == [name for name, _ in pair[1].named_buffers()]


@pytest.mark.parametrize("name", ["tensor0", "tensor3"])
@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_filters_that_are_learnt(pair, x, name, backend):
    found = []
    pair[0].backend = backend
    for module in pair:
        getattr(module, name).requires_grad_()
        module(x).square().sum().backward()
        found.append(getattr(module, name).grad)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3 * found[1].abs().max().item())


def test_filters_learnt_through_functional_call(pair, x):
    ours, theirs = pair
    state = {name: value.detach() for name, value in ours.state_dict().items()}
    found = grad(lambda s: functional_call(ours, s, (x,)).square().sum())(state)["tensor2"]
    theirs.tensor2.requires_grad_()
    theirs(x).square().sum().backward()
    expected = theirs.tensor2.grad
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("built", ["inside", "outside"])
@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.load_state_dict(s.state_dict()),
        lambda s: s.to("cpu"),
        lambda s: s.float(),
        lambda s: s.double().float(),
        lambda s: s.half(),
        lambda s: s.to(memory_format=torch.channels_last),
        lambda s: s(torch.rand(SHAPE)),
    ],
)
def test_inference_mode_and_then_training(pair, x, built, act):
    with torch.inference_mode(built == "inside"):
        ours = Scattering2D(2, SHAPE, L=4)
    with torch.inference_mode():
        act(ours)
    leaf = x.clone().requires_grad_()
    ours(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0
    same(ours, pair[1], x)


def test_a_filter_that_changes_in_inference_mode(pair, x):
    pair[0](x)
    with torch.inference_mode():
        for module in pair:
            module.tensor5.mul_(0.5)
        same(*pair, x)
    same(*pair, x)


@pytest.mark.parametrize(("built", "later"), [(2, 1), (1, 2), (2, 0)])
def test_max_order_that_changes(x, built, later):
    pair = Scattering2D(2, SHAPE, L=4, max_order=built), ScatteringTorch2D(2, SHAPE, L=4, max_order=built)
    pair[0](x)
    for module in pair:
        module.max_order = later
    same(*pair, x)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_has_filters_of_its_own(pair, x, copied):
    ours, theirs = pair
    twin = copied(ours)
    with torch.no_grad():
        twin.tensor3.mul_(0.5)
    same(ours, theirs, x)
    with torch.no_grad():
        theirs.tensor3.mul_(0.5)
    same(twin, theirs, x)


def test_a_module_pickled_when_the_pack_was_a_buffer(pair, x):
    ours, theirs = pair
    old = copy.deepcopy(ours)
    state = old.__getstate__()
    del state["_pack"]
    state["_buffers"] = {**state["_buffers"], "_packed": torch.empty(0)}
    new = Scattering2D.__new__(Scattering2D)
    new.__setstate__(state)
    same(new, theirs, x)
    assert "_packed" not in dict(new.named_buffers())


def test_compiled_modules_follow_too(pair, x):
    ours, theirs = pair
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), theirs(x), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        for module in pair:
            module.tensor3.mul_(0.5)
    torch.testing.assert_close(compiled(x), theirs(x), rtol=1e-4, atol=1e-6)


def test_compiled_modules_follow_their_settings(pair, x):
    ours, theirs = pair
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    compiled(x)
    for module in pair:
        module.max_order = 1
    torch.testing.assert_close(compiled(x), theirs(x), rtol=1e-4, atol=1e-6)


def test_vmap_over_images(pair, x):
    ours, _ = pair
    torch.testing.assert_close(vmap(ours)(x), ours(x))
    torch.testing.assert_close(vmap(ours, in_dims=2)(x.permute(1, 2, 0)), ours(x))
    features = vmap(lambda v: ours.features(v[None, None], channels_last=True))(x)
    torch.testing.assert_close(features[:, 0], ours.features(x[:, None]))


def test_kymatios_names_of_the_padded_size(pair):
    ours, theirs = pair
    assert (ours._M_padded, ours._N_padded) == (theirs._M_padded, theirs._N_padded)


def test_an_unknown_backend_is_refused_at_once():
    with pytest.raises(ValueError, match=r"backend must be .* got 'skcuda'"):
        Scattering2D(2, SHAPE, backend="skcuda")
