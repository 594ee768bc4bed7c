"""PyTorch weights files, honest and hostile, put together by hand from pickle's opcodes."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dcnn_visualizer.importers.torch_pickle import TorchPickleError, load

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
STORAGES = {
    "float32": b"FloatStorage",
    "float64": b"DoubleStorage",
    "float16": b"HalfStorage",
    "int64": b"LongStorage",
    "int32": b"IntStorage",
    "int16": b"ShortStorage",
    "int8": b"CharStorage",
    "uint8": b"ByteStorage",
    "bool": b"BoolStorage",
}


def plain(value):
    """Opcodes that push a value of Python's own, without the header and the final STOP."""
    return pickle.dumps(value, protocol=2)[2:-1]


def call(name, *arguments):
    module, _, function = name.rpartition(".")
    return b"c" + f"{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def dictionary(items):
    return b"}(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"


def storage(dtype, key, elements, legacy):
    kind = b"ctorch\n" + STORAGES[dtype] + b"\n"
    view = b"N" if legacy else b""
    return b"(" + plain("storage") + kind + plain(key) + plain("cpu") + plain(elements) + view + b"tQ"


def tensor(storage_opcodes, offset, shape, strides, function="torch._utils._rebuild_tensor_v2"):
    hooks = call("collections.OrderedDict")
    return call(function, storage_opcodes, plain(offset), plain(shape), plain(strides), plain(False), hooks)


def legacy_file(contents, storages=None, keys=None, system=SYSTEM):
    """A file as PyTorch wrote it before 1.6; ``storages`` maps keys to arrays."""
    storages = storages or {}
    head = b"".join(pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, system))
    keys = pickle.dumps(sorted(storages) if keys is None else keys, protocol=2)
    data = b"".join(storages[key].size.to_bytes(8, "little") + storages[key].tobytes() for key in sorted(storages))
    return head + b"\x80\x02" + contents + b"." + keys + data


def zip_file(contents, storages=None, compression=zipfile.ZIP_STORED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + contents + b".")
        for key, array in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    def read(content, **options):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        return load(path, **options)

    return read


def honest(legacy):
    """Contents and storages of a file with every element type, a shared storage, views and a parameter."""
    rng = np.random.default_rng(0)
    storages = {str(i): (rng.random(12) * 100).astype(dtype) for i, dtype in enumerate(STORAGES)}
    tensors = {dtype: tensor(storage(dtype, str(i), 12, legacy), 0, (3, 4), (4, 1)) for i, dtype in enumerate(STORAGES)}
    shared = storage("float32", "0", 12, legacy)
    tensors["transposed"] = tensor(shared, 0, (4, 3), (1, 4))
    tensors["part"] = tensor(shared, 5, (2, 2), (4, 1))
    tensors["scalar"] = tensor(shared, 11, (), ())
    tensors["empty"] = tensor(shared, 12, (0, 5), (5, 1))
    tensors["parameter"] = call("torch._utils._rebuild_parameter", tensor(shared, 0, (12,), (1,)), plain(True), b"N")
    tensors["oldest"] = tensor(shared, 0, (12,), (1,), "torch._utils._rebuild_tensor")
    expected = {dtype: storages[str(i)].reshape(3, 4) for i, dtype in enumerate(STORAGES)}
    row = storages["0"]
    expected |= {"transposed": row.reshape(3, 4).T, "part": row[[[5, 6], [9, 10]]], "scalar": row[11]}
    expected |= {"empty": np.zeros((0, 5), np.float32), "parameter": row, "oldest": row}
    # As state_dict() gives it: an OrderedDict with the versions of its modules as an attribute.
    contents = call("collections.OrderedDict") + dictionary(tensors)[1:] + dictionary({"_metadata": plain({"": 1})}) + b"b"
    return contents, storages, expected


@pytest.mark.parametrize("container", [legacy_file, zip_file])
def test_reads_every_tensor(read, container):
    contents, storages, expected = honest(container is legacy_file)
    tensors = read(container(contents, storages))
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype, name
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)
    assert np.shares_memory(tensors["float32"], tensors["part"])
    assert not np.shares_memory(tensors["float32"], tensors["float64"])


@pytest.mark.parametrize("container", [legacy_file, zip_file])
def test_entry_of_a_checkpoint(read, container):
    row = np.arange(3, dtype=np.float32)
    weights = dictionary({"W": tensor(storage("float32", "a", 3, container is legacy_file), 0, (3,), (1,))})
    file = container(dictionary({"epoch": plain(3), "state_dict": weights}), {"a": row})
    np.testing.assert_array_equal(read(file, entry="state_dict")["W"], row)
    with pytest.raises(TorchPickleError, match=r"int at 'epoch'.*'state_dict'"):
        read(file)
    with pytest.raises(TorchPickleError, match="no entry 'model'; there are 'epoch', 'state_dict'"):
        read(file, entry="model")


class Payload:
    """Its pickle asks for a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("container", [legacy_file, zip_file])
def test_runs_nothing(read, container, tmp_path):
    victim = tmp_path / "touched"
    for payload in (Payload(Path.touch, victim), Payload(exec, f"open({str(victim)!r}, 'w')"), Payload(getattr, victim, "touch")):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            attack = pickle.dumps(payload, protocol=protocol)
            contents = attack[2:-1] if protocol >= 2 else attack[:-1]
            with pytest.raises(TorchPickleError, match=r"asks for|opcode"):
                read(container(contents))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"cbuiltins\neval\n", "asks for builtins.eval"),
        (b"ctorch\nBFloat16Storage\n", "asks for torch.BFloat16Storage"),
        (b"(S'id'\nios\nsystem\n", "opcode"),
        (call("collections.OrderedDict", plain([("a", 1)])), "OrderedDict"),
        (b"ctorch\nFloatStorage\n(K\x05tR", "calls something that builds no tensor"),
        (plain([1, 2]), "dictionary of tensors, got list"),
        (dictionary({"a": plain(1)}), "got int at 'a'"),
        (b"}((K\x01K\x02tK\x03u", "key that is neither"),
        (b"]}b", "sets attributes"),
        (b"]K\x01K\x02s", "sets items of list"),
        (b"}K\x01a", "appends to dict"),
        (b"(K\x01", "got int"),
        (b"K\x01(0", "opcode POP"),
        (b"t", "no mark"),
        (b"(Q", "takes more from its stack"),
        (b"h\x07", "damaged pickle"),
        (plain("x") + b"Q", "refers to an outside object"),
        (b"(" + plain("storage") + plain("float") + plain("0") + plain("cpu") + plain(1) + b"tQ", "no known element type"),
        (storage("float32", "a", -1, False), "elements"),
        (b"]" + storage("float32", "a", 1, False) + b"a" + storage("int64", "a", 1, False) + b"a", "described twice"),
        (tensor(plain("x"), 0, (1,), (1,)), "looks into str"),
        (call("torch._utils._rebuild_tensor_v2", b"N"), "damaged pickle"),
    ],
)
def test_refuses_by_name(read, contents, message):
    with pytest.raises(TorchPickleError, match=message):
        read(zip_file(contents, {"a": np.zeros(1, np.float32)}))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (0, (3, 4), (5, 1)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2, -6), (1, 1)),
        (0, (12,), (1, 1)),
        (0, 12, 1),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, (1,) * 33, (1,) * 33),
        (0, (10**6, 10**6), (0, 0)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (0, 2**70), (1, 1)),
        (0, (0,) + (2**62,) * 4, (0,) * 5),
        (0, (1,), (2**70,)),
        (13, (0,), (1,)),
    ],
)
def test_refuses_tensors_outside_their_storage(read, offset, shape, strides):
    contents = dictionary({"W": tensor(storage("float32", "a", 12, True), offset, shape, strides)})
    with pytest.raises(TorchPickleError):
        read(legacy_file(contents, {"a": np.zeros(12, np.float32)}))


@pytest.mark.parametrize("container", [legacy_file, zip_file])
@pytest.mark.parametrize("elements", [13, 2**40, 2**62, 2**100])
def test_refuses_storages_longer_than_the_file_before_taking_memory(read, container, elements):
    legacy = container is legacy_file
    contents = dictionary({"W": tensor(storage("float32", "a", elements, legacy), 0, (1,), (1,))})
    file = container(contents, {"a": np.zeros(12, np.float32)})
    if legacy:
        file = file.replace((12).to_bytes(8, "little"), (elements % 2**64).to_bytes(8, "little"))
    with pytest.raises(TorchPickleError, match="cut short"):
        read(file)


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 8, b"\x8b\xff\xff\xff\x7f"])
def test_lengths_inside_the_pickle_take_no_memory(read, opcode):
    with pytest.raises(TorchPickleError):
        read(zip_file(b"}" + opcode + b"N"))


def test_an_object_whose_text_or_hash_is_endless(read):
    doubled = b")" + b"".join(b"q\x00h\x00\x86" for _ in range(100))
    for contents in (
        doubled + b"Q",
        b"}(" + doubled + b"K\x01u",
        dictionary({"a": doubled}),
        tensor(doubled, 0, doubled, doubled),
    ):
        with pytest.raises(TorchPickleError):
            read(zip_file(contents))


def test_a_tuple_nested_deeper_than_the_stack(read):
    deep = b")" + b"\x85" * 100_000
    for contents in (deep + b"Q", b"}(" + deep + b"K\x01u", deep):
        with pytest.raises(TorchPickleError):
            read(zip_file(contents))


@pytest.mark.parametrize("container", [legacy_file, zip_file])
def test_every_truncation_is_an_error(read, container):
    file = container(
        dictionary({"W": tensor(storage("float32", "a", 4, container is legacy_file), 0, (4,), (1,))}),
        {"a": np.ones(4, np.float32)},
    )
    np.testing.assert_array_equal(read(file)["W"], np.ones(4))
    for length in range(len(file)):
        with pytest.raises(TorchPickleError):
            read(file[:length])


@pytest.mark.parametrize("container", [legacy_file, zip_file])
def test_every_changed_byte_is_read_or_refused(read, container):
    file = container(
        dictionary({"W": tensor(storage("float32", "a", 4, container is legacy_file), 0, (4,), (1,))}),
        {"a": np.ones(4, np.float32)},
    )
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(len(file)):
        changed = bytearray(file)
        changed[place] = rng.integers(256)
        try:
            tensors = read(bytes(changed))
        except TorchPickleError:
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in tensors.values())
    assert refused > len(file) // 2


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "not a PyTorch weights file"),
        (b"hello", "not a PyTorch weights file"),
        (pickle.dumps(MAGIC + 1, 2), "magic number"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2), "protocol 1001, got 1002"),
        (legacy_file(plain({}), system={"little_endian": False}), "big-endian"),
        (legacy_file(plain({}), keys=["a"]), "list of storages"),
        (legacy_file(plain({}), keys=5), "list of storages"),
        (zip_file(plain({}), byteorder="big"), "big-endian"),
        (zip_file(plain({}), compression=zipfile.ZIP_DEFLATED), "compressed"),
    ],
)
def test_refuses_other_files(read, file, message):
    with pytest.raises(TorchPickleError, match=message):
        read(file)


def test_refuses_zip_members_that_overlap(read):
    """A zip bomb without compression: many directory entries for one stretch of the file."""
    file = zip_file(plain({}), {"a": np.zeros(1000, np.uint8)})
    start = file.index(b"PK\x01\x02", file.index(b"archive/data/a") + 1000)
    end = file.index(b"PK\x05\x06")
    entries = file[start:end]
    second = entries[entries.index(b"PK\x01\x02", 4) :]
    directory = entries + b"".join(second.replace(b"data/a", b"data/" + bytes([letter])) for letter in range(98, 123))
    count = (27).to_bytes(2, "little")
    tail = file[end : end + 8] + count + count + len(directory).to_bytes(4, "little") + start.to_bytes(4, "little") + b"\0\0"
    with pytest.raises(TorchPickleError, match="longer than the file"):
        read(file[:start] + directory + tail)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pth")
