"""Writes small state dicts as PyTorch saves them: state.pth, and old.pth and old_protocol_4.pth in the layout before
1.6, with every element type, views, shared storages and strides. Needs torch (2.3 or newer).

`python3 pickle_state.py python2` writes old_python_2.pth, which is made by hand: what PyTorch 0.3 under Python 2 wrote
has texts of bytes, parts of storages and an OrderedDict of pairs, and can no longer be installed.
"""
import collections
import pathlib
import pickle
import struct
import sys

HERE = pathlib.Path(__file__).parent


def python_2():
    def text(value):
        return b"U" + bytes([len(value)]) + value.encode()

    def storage(key, count, view):
        parts = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cuda:0")
        return parts + b"K" + bytes([count]) + view + b"tQ"

    def tensor(storage, shape):
        sizes = b"(" + b"".join(b"\x8a\x01" + bytes([n]) for n in shape) + b"t"
        return b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\0" + sizes + b"(\x8a\x01\x01ttR"

    pair = lambda name, value: b"]" + text(name) + b"a" + value + b"a"
    whole = tensor(storage("7", 4, b"N"), [4])
    part = tensor(storage("7", 4, b"(" + text("8") + b"K\x01K\x02t"), [2])
    pairs = b"](" + pair("whole", whole) + pair("part", part) + b"e"
    state = b"\x80\x02ccollections\nOrderedDict\n(" + pairs + b"tR."
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001}]
    head = b"".join(pickle.dumps(value, 2) for value in head)
    keys = b"\x80\x02]" + text("7") + b"a."
    (HERE / "old_python_2.pth").write_bytes(head + state + keys + struct.pack("<q4f", 4, 1, 2, 3, 4))


def states():
    import torch

    base = torch.arange(4, dtype=torch.float32)
    state = collections.OrderedDict()
    state["a.weight"] = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state["a.half"] = torch.tensor([0.5], dtype=torch.float16)
    state["a.num_batches_tracked"] = torch.tensor(7)
    state["b.part"] = base[2:]
    torch.save(state, HERE / "state.pth")

    names = "float64 bfloat16 int32 int16 int8 uint8 bool complex64 complex128 uint16 uint32 uint64 float8_e4m3fn"
    for name in names.split():
        state[f"c.{name}"] = torch.tensor([1, 0]).to(getattr(torch, name))
    # One storage under three names, and strides of all sorts.
    state["b.whole"] = base
    state["b.turned"] = torch.arange(6, dtype=torch.float32).reshape(2, 3).t()
    state["b.every_second"] = torch.arange(8, dtype=torch.float64)[1::2]
    state["b.repeated"] = torch.tensor([[2.5]]).expand(2, 2)
    pictures = torch.arange(12, dtype=torch.float32).reshape(1, 3, 2, 2)
    state["d.channels_last"] = pictures.contiguous(memory_format=torch.channels_last)
    state["d.parameter"] = torch.nn.Parameter(torch.tensor([9.0]))
    state["d.scalar"] = torch.tensor(3.0)
    state["d.empty"] = torch.zeros(0, 3)
    old = {"_use_new_zipfile_serialization": False}
    torch.save(state, HERE / "old.pth", **old)
    checkpoint = {"epoch": 3, "best": 0.5, "log": [1, 2.5, None], "model": state, "shape": torch.Size([1])}
    torch.save(checkpoint, HERE / "old_protocol_4.pth", pickle_protocol=4, **old)
    torch.save(checkpoint, HERE / "checkpoint.pth")


python_2() if sys.argv[1:] == ["python2"] else states()
