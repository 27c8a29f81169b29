"""The nine downloads are replaced by small random models of the package's classes."""

import math
import warnings

import pytest
import torch
from parity import reference
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F
from worlds.random_clip import random_clip
from worlds.slow_cells import last_block, pooled_values

from pipeline.classifier.towers.openai import GridPositions
from pipeline.system.errors import PipelineError
from pipeline.teachers import openai_clip
from pipeline.teachers.encoding import ViewRules, snap_to_stride
from pipeline.teachers.openai_clip import MEAN, STD
from pipeline.teachers.teacher import Teacher, load_teacher

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import clip


@pytest.fixture(scope="module", params=["resnet", "vit"])
def model_and_path(request, tmp_path_factory):
    model = random_clip(f"small {request.param}")
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pt"
    torch.save(model.state_dict(), path)
    return model, path


def random_images(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(images):
    return (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_native_size_equals_the_package(model_and_path):
    model, path = model_and_path
    teacher = load_teacher(f"openai:{path}")
    images = random_images(18, 3, teacher.input_size, teacher.input_size)
    with torch.no_grad():
        expected = F.normalize(model.encode_image(normalised(images)), dim=1)
    torch.testing.assert_close(teacher.encode_images(images), expected, atol=1e-5, rtol=0)


def test_texts_equal_the_package(model_and_path):
    model, path = model_and_path
    texts = [f"a photo of the {i}" for i in range(300)]
    with torch.no_grad():
        expected = F.normalize(model.encode_text(clip.tokenize(texts)), dim=1)
    torch.testing.assert_close(load_teacher(f"openai:{path}").encode_texts(texts), expected, atol=1e-5, rtol=0)


def bicubic(table, height, width):
    """[G, G, E] to [height, width, E], a cell at a time: Keys' kernel with a = -0.75, edges repeated."""
    side = len(table)

    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    out = torch.zeros(height, width, table.shape[-1])
    for i in range(height):
        for j in range(width):
            y, x = (i + 0.5) * side / height - 0.5, (j + 0.5) * side / width - 0.5
            for k in range(math.floor(y) - 1, math.floor(y) + 3):
                for m in range(math.floor(x) - 1, math.floor(x) + 3):
                    cell = table[min(max(k, 0), side - 1), min(max(m, 0), side - 1)]
                    out[i, j] += kernel(y - k) * kernel(x - m) * cell
    return out


def positions(embedding, height, width):
    side = round((len(embedding) - 1) ** 0.5)
    grid = bicubic(embedding[1:].view(side, side, -1), height, width)
    return torch.cat([embedding[:1], grid.flatten(0, 1)])


def bilinear_positions(embedding, height, width):
    side = round((len(embedding) - 1) ** 0.5)
    grid = reference.bilinear(embedding[1:].T.reshape(-1, side, side).double().numpy(), (height, width))
    return torch.cat([embedding[:1], torch.from_numpy(grid).float().flatten(1).T])


def slow_resnet(visual, pixels, positions=positions):
    pool, visual.attnpool = visual.attnpool, torch.nn.Identity()
    features = visual(pixels)[0]  # [E, h, w]
    visual.attnpool = pool
    cells = features.flatten(1).T
    tokens = torch.cat([cells.mean(0, keepdim=True), cells])
    tokens = tokens + positions(pool.positional_embedding, *features.shape[1:])
    heads = []
    size = tokens.shape[1] // pool.num_heads
    for head in range(pool.num_heads):
        part = slice(head * size, (head + 1) * size)
        query, key, value = (layer(tokens)[:, part] for layer in (pool.q_proj, pool.k_proj, pool.v_proj))
        heads.append((query @ key.T / size**0.5).softmax(1) @ value)
    return pool.c_proj(torch.cat(heads, 1))[0]  # every token asks, the first answer counts


def slow_vit(visual, pixels, positions=positions):
    grid = [side // visual.conv1.stride[0] for side in pixels.shape[-2:]]
    tokens = torch.cat([visual.class_embedding[None], visual.conv1(pixels)[0].flatten(1).T])
    tokens = visual.ln_pre(tokens + positions(visual.positional_embedding, *grid))
    return visual.ln_post(visual.transformer(tokens[:, None])[0, 0]) @ visual.proj


@pytest.mark.parametrize("shape", [(64, 160), (160, 32), (128, 128)])
def test_other_sizes_equal_a_slow_direct_reference(model_and_path, shape):
    model, path = model_and_path
    images = random_images(2, 3, *shape)
    slow = slow_resnet if "resnet" in path.name else slow_vit
    with torch.no_grad():
        expected = torch.stack([slow(model.visual, normalised(image[None])) for image in images])
    got = load_teacher(f"openai:{path}").encode_images(images)
    torch.testing.assert_close(got, F.normalize(expected, dim=1), atol=1e-5, rtol=0)


def slow_cells_of_resnet(visual, pixels, _):
    pool, visual.attnpool = visual.attnpool, torch.nn.Identity()
    features = visual(pixels)[0]
    visual.attnpool = pool
    return pooled_values(pool, features)


def slow_cells_of_vit(visual, pixels, attention):
    grid = [side // visual.conv1.stride[0] for side in pixels.shape[-2:]]
    tokens = torch.cat([visual.class_embedding[None], visual.conv1(pixels)[0].flatten(1).T])
    tokens = visual.ln_pre(tokens + positions(visual.positional_embedding, *grid))
    tokens = visual.transformer.resblocks[:-1](tokens[:, None])[:, 0]
    cells = last_block(visual.transformer.resblocks[-1], tokens, attention)
    return (visual.ln_post(cells) @ visual.proj).unflatten(0, grid)


@pytest.mark.parametrize("attention", ["values", "sclip"])
@pytest.mark.parametrize("shape", [(64, 160), (160, 32), (100, 75)])
def test_cells_equal_plain_loops(model_and_path, shape, attention):
    model, path = model_and_path
    teacher = load_teacher(f"openai:{path}", rules=ViewRules(cell_attention=attention))
    images = random_images(2, 3, *shape)
    views = teacher.encode_views(images)
    assert torch.equal(views.images, teacher.encode_images(images))
    slow = slow_cells_of_resnet if "resnet" in path.name else slow_cells_of_vit
    pixels = snap_to_stride(normalised(images), 32 if "resnet" in path.name else model.visual.conv1.stride[0])
    with torch.no_grad():
        expected = torch.stack([slow(model.visual, image[None], attention) for image in pixels])
    torch.testing.assert_close(views.cells, F.normalize(expected, dim=3), atol=1e-5, rtol=0)


def test_cells_of_many_views_stay_with_their_views(model_and_path):
    teacher = load_teacher(f"openai:{model_and_path[1]}")
    images = random_images(18, 3, 64, 96)
    together = teacher.encode_views(images)
    for n in (0, 15, 16, 17):
        torch.testing.assert_close(
            together.cells[n], teacher.encode_views(images[n : n + 1]).cells[0], atol=1e-5, rtol=0
        )
    assert not torch.allclose(together.cells[0], together.cells[1], atol=1e-2)


def test_cells_of_a_flat_part_are_alike_and_those_of_a_busy_part_are_not(model_and_path):
    images = torch.full((1, 3, 256, 512), 90, dtype=torch.uint8)
    images[:, :, :, 352:] = random_images(1, 3, 256, 160)
    cells = load_teacher(f"openai:{model_and_path[1]}").encode_views(images).cells[0]
    height, width = cells.shape[:2]
    assert height * 2 == width
    change = (cells[height // 2, 1:] - cells[height // 2, :-1]).norm(dim=1)
    flat, busy = change[width // 5 : width // 2], change[round(0.75 * width) :]
    assert busy.min() > 5 * flat.max()


def test_views_as_the_authors_code_takes_them(model_and_path):
    model, path = model_and_path
    rules = ViewRules(statistics="imagenet", positions="bilinear", snap=False)
    teacher = load_teacher(f"openai:{path}", rules=rules)
    stride = 32 if "resnet" in path.name else model.visual.conv1.stride[0]
    whole = random_images(2, 3, 2 * stride, 4 * stride)
    ragged = torch.nn.functional.pad(whole, (0, stride // 4, 0, 0))  # the towers drop what is beyond the last cell
    slow = slow_resnet if "resnet" in path.name else slow_vit
    mean, std = torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)
    with torch.no_grad():
        pixels = (ragged / 255 - mean) / std
        expected = torch.stack([slow(model.visual, image[None], positions=bilinear_positions) for image in pixels])
    torch.testing.assert_close(teacher.encode_images(ragged), F.normalize(expected, dim=1), atol=1e-5, rtol=0)
    assert teacher.encode_views(ragged).cells.shape[1:3] == (2, 4)
    assert teacher.fingerprint != load_teacher(f"openai:{path}").fingerprint


def test_positions_are_computed_once_per_size():
    grid = GridPositions(torch.randn(1 + 9, 4))
    with torch.inference_mode():
        assert grid(2, 5) is grid(2, 5)
        assert grid(2, 5).shape == (11, 4)
    assert grid(3, 3) is grid.embedding


@pytest.mark.parametrize(("shape", "snapped"), [((427, 640), (416, 640)), ((20, 33), (32, 32)), ((64, 96), (64, 96))])
def test_odd_sizes_become_the_nearest_multiple(shape, snapped):
    ramp = torch.linspace(0, 1, shape[1]).expand(1, 3, *shape)
    resized = snap_to_stride(ramp, 32)
    assert resized.shape == (1, 3, *snapped)
    torch.testing.assert_close(resized[0, 0, 0], torch.linspace(0, 1, snapped[1]), atol=0.02, rtol=0)


def test_crops_of_any_shape_are_encoded(model_and_path):
    teacher = load_teacher(f"openai:{model_and_path[1]}")
    for shape in ((427, 640), (17, 90), (1, 1)):
        torch.testing.assert_close(teacher.encode_images(random_images(1, 3, *shape)).norm(dim=1), torch.ones(1))


def test_protocol_scale_and_fingerprint(model_and_path, tmp_path):
    model, path = model_and_path
    teacher = load_teacher(f"openai:{path}", precision="float16")  # float32 on a CPU, whatever is asked
    assert isinstance(teacher, Teacher)
    assert teacher.logit_scale == pytest.approx(1 / 0.07)
    assert teacher.encode_images(random_images(1, 3, 32, 32)).dtype == torch.float32
    assert teacher.fingerprint == load_teacher(f"openai:{path}").fingerprint
    model.state_dict()["text_projection"][0, 0] += 1
    torch.save(model.state_dict(), tmp_path / "other.pt")
    model.state_dict()["text_projection"][0, 0] -= 1
    assert teacher.fingerprint != load_teacher(f"openai:{tmp_path / 'other.pt'}").fingerprint


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_archives_load(model_and_path, tmp_path):
    model, path = model_and_path
    size = model.visual.input_resolution
    tokens = clip.tokenize(["a photo"])
    model.register_buffer("input_resolution", torch.tensor(size))  # as in OpenAI's archives
    traced = torch.jit.trace(model, (torch.zeros(1, 3, size, size), tokens), check_trace=False)
    del model.input_resolution
    torch.jit.save(traced, tmp_path / "jit.pt")
    images = random_images(2, 3, 64, 96)
    torch.testing.assert_close(
        load_teacher(f"openai:{tmp_path / 'jit.pt'}").encode_images(images),
        load_teacher(f"openai:{path}").encode_images(images),
    )


def test_corrupt_files_are_refused(model_and_path, tmp_path):
    whole = model_and_path[1].read_bytes()
    weights = torch.load(model_and_path[1], weights_only=True)
    path = tmp_path / "weights.pt"

    def refused(match):
        with pytest.raises(PipelineError, match=match):
            load_teacher(f"openai:{path}")

    path.write_bytes(b"")
    refused("truncated or not a torch file")
    path.write_bytes(whole[:-1000])
    refused("truncated")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    refused("wrong checksum")
    torch.save({"weight": torch.zeros(2)}, path)
    refused("no state dict of an OpenAI CLIP")
    torch.save([1, 2], path)
    refused("no state dict of an OpenAI CLIP")
    torch.save(random_clip, path)
    refused("cannot be read")
    weights["text_projection"][0, 0] = float("nan")
    torch.save(weights, path)
    refused("text_projection is not finite")


def test_names_that_do_not_exist(tmp_path):
    with pytest.raises(PipelineError, match="Did you mean 'RN50x64' or 'RN50x16'"):
        load_teacher("openai:rn50x60")
    with pytest.raises(PipelineError, match=r"no weights file .*missing\.pt"):
        load_teacher(f"openai:{tmp_path / 'missing.pt'}")
    with pytest.raises(PipelineError, match=r"Precision 'int8' .* bfloat16"):
        torch.save(random_clip("small vit").state_dict(), tmp_path / "vit.pt")
        load_teacher(f"openai:{tmp_path / 'vit.pt'}", precision="int8")


def test_half_precision_keeps_the_embeddings(model_and_path, monkeypatch):
    spec, images = f"openai:{model_and_path[1]}", random_images(3, 3, 64, 96)
    texts = ["a photo of the dog", "a photo of the tv monitor"]
    exact = load_teacher(spec)
    # bfloat16 stands in for CUDA's precisions: a CPU has it too, though only for this test
    monkeypatch.setattr(openai_clip, "compute_dtype", lambda *_: torch.bfloat16)
    rough = load_teacher(spec)
    assert rough.fingerprint == exact.fingerprint  # the same weights
    for got, expected in (
        (rough.encode_images(images), exact.encode_images(images)),
        (rough.encode_texts(texts), exact.encode_texts(texts)),
    ):
        assert got.dtype == torch.float32
        assert F.cosine_similarity(got, expected).min() > 0.999
    for attention in ("values", "sclip"):
        views = load_teacher(spec, rules=ViewRules(cell_attention=attention)).encode_views(images)
        monkeypatch.undo()
        expected = load_teacher(spec, rules=ViewRules(cell_attention=attention)).encode_views(images)
        monkeypatch.setattr(openai_clip, "compute_dtype", lambda *_: torch.bfloat16)
        assert torch.equal(views.images, rough.encode_images(images)) and views.cells.dtype == torch.float32
        assert not torch.equal(views.cells, expected.cells)
        assert F.cosine_similarity(views.cells, expected.cells, dim=3).min() > 0.999


def test_a_text_that_is_too_long_is_refused(model_and_path):
    with pytest.raises(PipelineError, match="more tokens than the 77 that"):
        load_teacher(f"openai:{model_and_path[1]}").encode_texts(["photo " * 100])


def test_named_model_without_a_connection_says_what_belongs_where(monkeypatch, tmp_path):
    digest = "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"
    monkeypatch.setitem(clip.clip._MODELS, "RN50x64", f"http://127.0.0.1:9/{digest}/RN50x64.pt")
    monkeypatch.setenv("CCD_CACHE", str(tmp_path))
    with pytest.raises(PipelineError) as error:
        load_teacher("openai:RN50x64")
    for part in ("127.0.0.1:9", digest, str(tmp_path / "openai/RN50x64.pt")):
        assert part in str(error.value)
