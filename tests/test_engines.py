"""Frozen networks give the same output on every engine and do not change."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from pipeline.classifier import engines
from pipeline.classifier.engines import CPU_PIXELS, fuse, run_of
from pipeline.classifier.lite import build_lite
from pipeline.system.errors import PipelineError

CPU = torch.device("cpu")


def with_statistics(network):
    """The network in eval mode, with batch norms that have something to fold."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.copy_(torch.randn(values.shape, generator=generator) * 0.1)
            for values in (module.running_var, module.weight.data):
                values.copy_(torch.rand(values.shape, generator=generator) * 0.5 + 0.75)
    return network.eval().requires_grad_(False)


NETWORKS = {
    "lite": lambda: build_lite("lite0"),
    "resnet": lambda: torchvision.models.resnet18(),  # one ReLU called several times, and residual sums
    "timm": lambda: timm.create_model("test_resnet"),
    "not torch's": lambda: timm.create_model("test_convnext"),  # norms that no convolution takes in
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return with_statistics(NETWORKS[request.param]())


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 65, 96, generator=torch.Generator().manual_seed(1))


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_a_cpu_runs_slices_of_a_batch_one_by_one(network):
    count = CPU_PIXELS // (129 * 193)
    images = torch.randn(2 * count + 1, 3, 129, 193, generator=torch.Generator().manual_seed(1))
    run = run_of(network, CPU)
    found = run(images)
    assert len(found) == len(images) and relative(found, network(images)) < 1e-4
    for part in (slice(0, count), slice(count, 2 * count), slice(2 * count, None)):
        assert torch.equal(found[part], run(images[part]))


def test_a_fused_network_says_the_same_and_the_original_is_untouched(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = network(images)
    assert relative(run_of(network, CPU)(images), expected) < 1e-4
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize("name", ["lite", "resnet"])
def test_every_batch_norm_is_folded(name):
    fused = fuse(with_statistics(NETWORKS[name]()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_bfloat16_comes_close_and_is_not_float32(images):
    network = with_statistics(NETWORKS["resnet"]())
    expected = network(images)
    found = run_of(network, CPU, torch.bfloat16)(images).float()
    assert 1e-4 < relative(found, expected) < 0.05


def test_a_batch_norm_that_others_look_behind_is_left_alone(images):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            maps = self.convolution(x)
            return self.norm(maps) + maps

    network = with_statistics(Both())
    torch.testing.assert_close(run_of(network, CPU)(images), network(images))


def test_a_convolution_that_is_called_twice_is_left_alone(images):
    convolution = nn.Conv2d(3, 3, 3)
    network = with_statistics(nn.Sequential(convolution, nn.BatchNorm2d(3), nn.ReLU(), convolution, nn.ReLU()))
    torch.testing.assert_close(run_of(network, CPU)(images), network(images))


def test_a_network_whose_path_depends_on_its_input_runs_as_it_is(images):
    class Choosing(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    assert torch.equal(run_of(Choosing(), CPU)(images.abs()), images.abs() * 2)


def need(engine):
    for package in engines.PACKAGES[engine]:
        pytest.importorskip(package, reason=f"{package} is missing, so the engine {engine} is NOT tested")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_other_engines_say_the_same(engine, images):
    need(engine)
    network = with_statistics(timm.create_model("test_resnet"))
    run = run_of(network, CPU, engine=engine)
    for batch in (images, images[:1], images[:, :, :64, :64]):
        assert relative(run(batch), network(batch)) < 1e-4


def test_the_environment_chooses_the_engine_for_images_of_any_size(images, monkeypatch):
    need("openvino")
    network = with_statistics(build_lite("lite0"))  # pads by the size of its input: crops have many
    monkeypatch.setenv("CCD_ENGINE", "openvino")
    monkeypatch.setattr(engines, "torch_run", None)
    run = run_of(network, CPU)
    for batch in (images, images[:, :, :, :65], images[:1, :, :32, :64]):
        assert relative(run(batch), network(batch)) < 1e-4


def test_openvino_tells_nobody(images, monkeypatch):
    need("openvino")
    telemetry = pytest.importorskip("openvino_telemetry")
    told = []
    monkeypatch.setattr(telemetry.Telemetry, "send_event", lambda *said, **more: told.append(said))
    run_of(with_statistics(NETWORKS["resnet"]()), CPU, engine="openvino")(images)
    assert told == []


def test_an_unknown_engine_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("CCD_ENGINE", "openvin")
    with pytest.raises(PipelineError, match=r"CCD_ENGINE .*'openvin'.*'openvino'"):
        run_of(nn.Identity(), CPU)


def test_an_engine_that_is_not_installed_or_not_for_the_device_is_refused(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(PipelineError, match=r"needs onnxruntime.*`pip install '\.\[onnx\]'`"):
        run_of(nn.Identity(), CPU, engine="onnxruntime")
    with pytest.raises(PipelineError, match="openvino runs only on a CPU, not on cuda"):
        run_of(nn.Identity(), torch.device("cuda"), engine="openvino")
