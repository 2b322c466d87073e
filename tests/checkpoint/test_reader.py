"""The reader equals ``torch.load(weights_only=True)`` and ``safetensors.torch.load_file`` in every bit and type."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ccvae_eval.checkpoint import Record, Reference, read_bundle, reader, write_bundle
from ccvae_eval.checkpoint.bundle import FileTensors, named_tensors, tensor_table
from ccvae_eval.checkpoint.reader import Content, StoredTensor
from ccvae_eval.checkpoint.safe_reader.records import ITEM_SIZES
from ccvae_eval.checkpoint.safe_reader.source import Source
from ccvae_eval.checkpoint.safe_reader.summary import describe
from ccvae_eval.core.errors import CheckpointError
from tests.support.paths import SHARED

pytestmark = pytest.mark.oracle

DTYPES = [getattr(torch, name) for name in ITEM_SIZES if name != "complex32"]


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


def require_same(found: Any, expected: Any) -> None:
    """Equal in structure, order of keys, and every bit."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        assert (found.dtype, found.shape, bits(found)) == (expected.dtype, expected.shape, bits(expected))
        assert found.is_contiguous()
        assert found.device.type == "cpu"
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert [type(key) for key in found] == [type(key) for key in expected]
        for key in expected:
            require_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list if isinstance(expected, list) else tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            require_same(one, other)
    elif isinstance(expected, float):
        assert isinstance(found, float)
        np.testing.assert_array_equal(found, expected)
    else:
        assert type(found) is type(expected)
        assert found == expected


def some_numbers(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random bits, including NaN and subnormals; zeros and ones for Booleans."""
    generator = torch.Generator().manual_seed(seed)
    size = ITEM_SIZES[str(dtype).removeprefix("torch.")]
    count = int(np.prod(shape, dtype=np.int64))
    top = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, top, (count * size,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


WITHOUT_STORAGE = [d for d in DTYPES if str(d).startswith(("torch.uint", "torch.float8")) and d != torch.uint8]
"""Types that torch writes in the legacy format but cannot read from it."""


def unbuilt(value: Any) -> Any:
    """The tree with a tensor of no file in place of each tensor."""
    if isinstance(value, dict):
        return {key: unbuilt(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(unbuilt, value))
    return StoredTensor(Content({}, []), 0) if isinstance(value, Tensor) else value


def saved(value: Any, path: Path, new: bool = True) -> Any:
    torch.save(value, path, _use_new_zipfile_serialization=new)
    return torch.load(path, weights_only=True)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads in this process, to avoid a child for each of hundreds of files."""
    monkeypatch.setattr(reader, "describe", lambda descriptor, _: json.loads(json.dumps(describe(Source(descriptor)))))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type(dtype: torch.dtype, new: bool, tmp_path: Path) -> None:
    value = {"many": some_numbers(dtype, (3, 5)), "one": some_numbers(dtype, ()), "none": some_numbers(dtype, (0, 4))}
    if new or dtype not in WITHOUT_STORAGE:
        expected = saved(value, tmp_path / "x.pt", new)
    else:
        torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
        expected = value
    bundle = read_bundle(tmp_path / "x.pt")
    require_same(bundle.records, expected)
    require_same(dict(bundle.tensors), expected)


BASE = torch.arange(120.0).reshape(2, 3, 4, 5)
VIEWS = {
    "transposed": BASE.transpose(1, 3),
    "every second": BASE[:, ::2, 1:3, ::3],
    "expanded": torch.arange(3.0).expand(4, 3),
    "expanded scalar": torch.tensor(2.5).expand(2, 2),
    "channels last": BASE.contiguous(memory_format=torch.channels_last),
    "with an offset": BASE.reshape(-1)[17:19],
    "last element": BASE[-1, -1, -1, -1],
    "windows": torch.arange(10.0).unfold(0, 4, 1),
    "diagonal": torch.arange(9.0).reshape(3, 3).diagonal(),
    "empty of a large": BASE[:, :0],
    "no dimension": torch.tensor(3),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str, new: bool, tmp_path: Path) -> None:
    expected = saved([VIEWS[view], BASE], tmp_path / "x.pt", new)
    require_same(read_bundle(tmp_path / "x.pt").records, expected)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_tensors_that_share_storage_become_independent(new: bool, tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    expected = saved({"whole": whole, "half": whole[3:], "again": whole}, tmp_path / "x.pt", new)
    tensors = read_bundle(tmp_path / "x.pt").tensors
    require_same(dict(tensors), expected)
    tensors["half"].zero_()
    assert tensors["whole"].tolist() == [0, 1, 2, 3, 4, 5]


CONTENTS: dict[str, Any] = {
    "state_dict": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict(),
    "nested": {"model": {"a": torch.ones(2)}, "epoch": 3, "names": ["x", "y"], "pair": (1, torch.zeros(1))},
    "scalars": {
        "t": True,
        "n": None,
        "i": -(1 << 62),
        "f": 1e-300,
        "inf": float("inf"),
        "nan": float("nan"),
        "s": "é\n",
    },
    "large integer": {"i": 1 << 200},
    "integer keys": {0: torch.ones(1), 1: {"a": 2}, -5: "x"},
    "ordered": OrderedDict([("b", torch.ones(1)), ("a", torch.zeros(1))]),
    "parameters": {"p": nn.Parameter(torch.ones(3)), "frozen": nn.Parameter(torch.ones(3), requires_grad=False)},
    "lone tensor": torch.arange(4),
    "lone list": [torch.arange(4), [torch.ones(1)]],
    "empty": {},
    "tied": (lambda w: {"encoder": w, "decoder": w})(torch.ones(2, 2)),
    "gradient": {"a": torch.ones(2, requires_grad=True)},
    "long": {f"layer.{i}.weight": torch.full((2,), float(i)) for i in range(700)},
    "optimiser": torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict(),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", CONTENTS)
def test_contents(content: str, new: bool, tmp_path: Path) -> None:
    expected = saved(CONTENTS[content], tmp_path / "x.pt", new)
    require_same(read_bundle(tmp_path / "x.pt").records, expected)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(protocol: int, tmp_path: Path) -> None:
    value = {"w": torch.ones(2), "l": [1, 2, 3], "t": (1, 2, 3, 4), "big": 1 << 70, "long": "x" * 300, "f": 0.1}
    torch.save(value, tmp_path / "x.pt", pickle_protocol=protocol)
    require_same(read_bundle(tmp_path / "x.pt").records, value)  # torch.load supports protocols 2 and 3


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from([d for d in DTYPES if d not in WITHOUT_STORAGE]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    tensor = some_numbers(dtype, shape, draw(st.integers(0, 1000)))
    for _ in range(draw(st.integers(0, 2))):
        if tensor.ndim == 0:
            tensor = tensor.expand(draw(st.integers(0, 3)))
            continue
        axis = draw(st.integers(0, tensor.ndim - 1))
        start = draw(st.integers(0, tensor.shape[axis]))
        match draw(st.sampled_from(["transpose", "narrow", "select"])):
            case "transpose":
                tensor = tensor.transpose(axis, draw(st.integers(0, tensor.ndim - 1)))
            case "narrow":
                tensor = tensor.narrow(axis, start, draw(st.integers(0, tensor.shape[axis] - start)))
            case _ if start < tensor.shape[axis]:
                tensor = tensor.select(axis, start)
    return tensor


KEYS = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.integers(-3, 300))
LEAVES = st.one_of(
    tensors(), st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=["Cs"]))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=st.dictionaries(KEYS, TREES, max_size=5), new=st.booleans())
def test_random_trees(tree: dict[Any, Any], new: bool, tmp_path: Path) -> None:
    expected = saved(tree, tmp_path / "x.pt", new)
    names = [name for name, _ in named_tensors(unbuilt(expected))]
    if len(set(names)) == len(names):
        require_same(read_bundle(tmp_path / "x.pt").records, expected)
    else:
        with pytest.raises(CheckpointError, match="same name"):
            read_bundle(tmp_path / "x.pt")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_pickled_module_gives_its_state_dict(new: bool, tmp_path: Path) -> None:
    module = nn.Sequential(OrderedDict(c=nn.Conv2d(1, 2, 3), n=nn.BatchNorm2d(2), d=nn.Sequential(nn.Linear(2, 2))))
    module.register_buffer("kept", torch.ones(2))
    module.register_buffer("passing", torch.ones(2), persistent=False)
    module.register_parameter("absent", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy format pickles source code too, with a warning
        torch.save(module, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    bundle = read_bundle(tmp_path / "x.pt")
    require_same(dict(bundle.tensors), dict(module.state_dict()))
    assert isinstance(bundle.records, Record)
    assert bundle.records.class_name == "torch.nn.modules.container.Sequential"
    assert "torch.nn.modules.conv.Conv2d" in bundle.globals


def test_metadata_of_training_scripts(tmp_path: Path) -> None:
    value = {
        "state_dict": {"w": torch.ones(1)},
        "hyper_parameters": Namespace(lr=0.1, layers=(1, 2)),
        "best": np.float64(0.25),
        "count": np.int64(7),
        "device": torch.device("cuda", 7),
        "shape": torch.Size([3, 4]),
        "dtype": torch.float16,
        "path": Path("runs/one"),
        "raw": b"\x00\x01",
        "mean": np.ones(3),
        "names": {"a"},
    }
    torch.save(value, tmp_path / "x.pt")
    bundle = read_bundle(tmp_path / "x.pt")
    assert list(bundle.tensors) == ["state_dict.w"]
    assert bundle.metadata == {
        "hyper_parameters": {"lr": 0.1, "layers": [1, 2]},
        "best": 0.25,
        "count": 7,
        "device": "cuda:7",
        "shape": [3, 4],
        "dtype": "torch.float16",
        "path": "runs/one",
        "names": ["a"],
    }
    assert bundle.records["dtype"] == Reference("torch.float16")


def test_tensors_saved_on_an_unavailable_device_are_read(tmp_path: Path) -> None:
    """The location of a storage is a string in the pickle; the test replaces ``cpu`` by ``cuda:7``."""
    torch.save({"w": torch.arange(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "x.pt").read_bytes()
    cpu, cuda = (b"X" + bytes([len(word), 0, 0, 0]) + word for word in (b"cpu", b"cuda:7"))
    assert raw.count(cpu) == 1
    (tmp_path / "x.pt").write_bytes(raw.replace(cpu, cuda))
    bundle = read_bundle(tmp_path / "x.pt")
    assert bundle.tensors["w"].tolist() == [0, 1, 2]
    assert bundle.notes == ("saved on cuda:7, loaded onto the CPU",)


class Stream(io.BytesIO):
    """A stream that cannot seek, so that ``zipfile`` writes sizes after each member."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError


@pytest.mark.parametrize("layout", ["zip64", "stream"])
def test_archives_of_other_writers_are_read(layout: str, tmp_path: Path) -> None:
    expected = saved({"w": torch.arange(5.0)}, tmp_path / "x.pt")
    out = Stream() if layout == "stream" else io.BytesIO()
    with zipfile.ZipFile(tmp_path / "x.pt") as archive, zipfile.ZipFile(out, "w") as copy:
        for name in archive.namelist():
            if layout == "stream":
                copy.writestr(name, archive.read(name))
            else:
                with copy.open(name, "w", force_zip64=True) as member:
                    member.write(archive.read(name))
    (tmp_path / "y.pt").write_bytes(out.getvalue())
    require_same(read_bundle(tmp_path / "y.pt").records, expected)


SAFE = [d for d in DTYPES if d not in (torch.complex128, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)]


def test_safetensors(tmp_path: Path) -> None:
    value = {f"{dtype}{len(shape)}": some_numbers(dtype, shape) for dtype in SAFE for shape in ((), (3, 2), (0, 2))}
    safetensors.torch.save_file(value, tmp_path / "x.safetensors", {"author": "é", "n": "1"})
    bundle = read_bundle(tmp_path / "x.safetensors")
    expected = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert bundle.format == "safetensors"
    assert bundle.metadata == {"author": "é", "n": "1"}
    assert bundle.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        require_same(bundle.tensors[name], tensor)


@pytest.mark.usefixtures("in_process")
def test_safetensors_headers_of_any_length(tmp_path: Path) -> None:
    """The length is the start of the file, and some lengths look like the start of a pickle or a zip archive."""
    begins = set()
    for width in range(0, 800, 8):
        path = tmp_path / f"{width}.safetensors"
        safetensors.torch.save_file({"w": torch.arange(2.0)}, path, {"note": "x" * width})
        begins.add(path.read_bytes()[:2])
        assert read_bundle(path).tensors["w"].tolist() == [0, 1]
    assert b"\x80\x02" in begins


@pytest.mark.parametrize("name", ["disvae_VAE_mnist", "disvae_VAE_dsprites"])
def test_third_party_checkpoints_are_read(name: str) -> None:
    path = SHARED / "checkpoints" / name / "model.pt"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    bundle = read_bundle(path)
    assert bundle.format == "pt-legacy"
    require_same(dict(bundle.tensors), dict(torch.load(path, weights_only=True)))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_shapes_and_types_are_known_before_the_tensors_are_built(suffix: str, tmp_path: Path) -> None:
    tensors = {"half": torch.ones(2, 3), "whole": torch.arange(4), "empty": torch.empty(0, 2)}
    write_bundle(tmp_path / f"x{suffix}", tensors, {}, half=True)
    bundle = read_bundle(tmp_path / f"x{suffix}")
    assert isinstance(bundle.tensors, FileTensors)
    contents = {id(stored.content): stored.content for stored in bundle.tensors.stored.values()}
    assert bundle.tensor_table == tensor_table(tensors)
    assert bundle.parameter_count == 10
    assert all("tensors" not in vars(content) for content in contents.values()), "nothing is built yet"
    for name, tensor in tensors.items():
        require_same(bundle.tensors[name], tensor)
    assert bundle.tensors["half"] is bundle.tensors["half"]
    assert all(not content.storages for content in contents.values()), "the bytes are held once"
