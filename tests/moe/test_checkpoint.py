import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emulation.errors import InputError
from moe.checkpoint import INDEX, SINGLE, Checkpoint
from moe.tiny import write_tiny


@pytest.fixture
def single(tmp_path: Path, tiny: Callable[[str], Path]) -> Path:
    """A mixtral checkpoint in one file, of its own."""
    source = tiny("mixtral")
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        tensors |= load_file(file)
    save_file(tensors, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


def test_a_slice_is_a_view_of_the_mapped_file(single: Path) -> None:
    checkpoint = Checkpoint(single)
    key = "model.layers.1.block_sparse_moe.experts.5.w1.weight"
    part, whole = checkpoint.slice(1, 5, 10, 20), checkpoint.tensor(key)
    assert part.gate.data_ptr() == whole.data_ptr() + 10 * whole.stride(0) * whole.element_size()
    assert part.down.shape == (64, 10)
    assert part.down.stride() == (40, 1)
    assert torch.equal(part.gate, load_file(single / SINGLE)[key][10:20])


def test_a_sharded_checkpoint_reads_as_a_single_one(single: Path, tiny: Callable[[str], Path]) -> None:
    sharded = tiny("mixtral")
    assert (sharded / INDEX).is_file()
    one, many = Checkpoint(single), Checkpoint(sharded)
    assert set(one.names()) == set(many.names())
    assert torch.equal(one.slice(2, 7, 3, 9).down, many.slice(2, 7, 3, 9).down)


def test_opening_and_slicing_reads_no_other_shard(tiny: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(tiny("mixtral"))
    assert not checkpoint._files
    checkpoint.slice(0, 0)
    assert 1 <= len(checkpoint._files) < len(list(checkpoint.folder.glob("*.safetensors")))


def test_only_routed_experts_count_as_experts(tiny: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint(tiny("deepseek_v2"))
    experts = {name for name in checkpoint.names() if checkpoint.is_expert(name)}
    assert experts == {name for name in checkpoint.names() if ".mlp.experts." in name}
    assert len(experts) == 2 * 8 * 3


def test_bf16_is_mapped_and_widened_exactly(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write_tiny("olmoe", tmp_path, dtype=torch.bfloat16))
    part = checkpoint.slice(0, 3, 5, 6)
    assert part.gate.dtype == torch.bfloat16
    assert torch.equal(part.gate.float().bfloat16(), part.gate)


def test_an_unaligned_tensor_is_copied_and_right(single: Path) -> None:
    before = Checkpoint(single).slice(1, 2).gate.clone()
    raw = (single / SINGLE).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + length].rstrip() + b" " * 3
    (single / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    again = Checkpoint(single)
    assert any(entry.begin % 4 for entry in again._file(SINGLE).entries.values())
    assert torch.equal(again.slice(1, 2).gate, before)


def test_a_truncated_file_is_refused(single: Path) -> None:
    raw = (single / SINGLE).read_bytes()
    (single / SINGLE).write_bytes(raw[:-1])
    with pytest.raises(InputError, match=f"is truncated: its tensors end at byte {len(raw)}"):
        Checkpoint(single)
    (single / SINGLE).write_bytes(raw[:100])
    with pytest.raises(InputError, match="is truncated: its header needs"):
        Checkpoint(single)
    (single / SINGLE).write_bytes(b"abc")
    with pytest.raises(InputError, match="3 bytes are too few"):
        Checkpoint(single)


def test_what_is_no_safetensors_file_is_refused(single: Path) -> None:
    (single / SINGLE).write_bytes(b"PK\x03\x04" * 1000)
    with pytest.raises(InputError, match="no safetensors file"):
        Checkpoint(single)


def test_a_missing_tensor_is_refused_by_name(single: Path) -> None:
    key = "model.layers.0.block_sparse_moe.experts.4.w2.weight"
    rewrite(single, lambda tensors: tensors.__delitem__(key))
    with pytest.raises(InputError, match=f"has no tensor '{key}'$"):
        Checkpoint(single).slice(0, 4)


def test_a_quantised_checkpoint_is_refused_with_the_remedy(single: Path) -> None:
    key = "model.layers.0.block_sparse_moe.experts.4.w2.weight"

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{key}_scale"] = tensors.pop(key)

    rewrite(single, quantise)
    with pytest.raises(InputError, match="has to be converted to bf16 first"):
        Checkpoint(single).slice(0, 4)


def test_a_type_that_is_not_multiplied_is_refused_with_the_remedy(single: Path) -> None:
    key = "model.layers.0.block_sparse_moe.experts.4.w2.weight"
    rewrite(single, lambda tensors: tensors.update({key: tensors[key].to(torch.float8_e4m3fn)}))
    with pytest.raises(InputError, match=r"is F8_E4M3: only .* \(convert a quantised checkpoint first\)"):
        Checkpoint(single).slice(0, 4)


def test_a_tensor_of_another_shape_is_refused(single: Path) -> None:
    key = "model.layers.0.block_sparse_moe.experts.4.w1.weight"

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = tensors[key][:-1].clone()

    rewrite(single, cut)
    with pytest.raises(InputError, match=r"has shape \[39, 64\] where config.json says \[40, 64\]"):
        Checkpoint(single).slice(0, 4)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused(single: Path, name: str) -> None:
    (single / SINGLE).rename(single / name)
    with pytest.raises(InputError, match="pickle"):
        Checkpoint(single)
    with pytest.raises(InputError, match="pickle"):
        Checkpoint(single / name)


def test_an_index_that_names_a_pickle_is_refused(single: Path) -> None:
    (single / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "pytorch_model.bin"}}))
    with pytest.raises(InputError, match="pickle"):
        Checkpoint(single).tensor("model.norm.weight")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_an_index_that_leads_outside_is_refused(single: Path, name: str) -> None:
    (single / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(InputError, match="outside the folder"):
        Checkpoint(single).tensor("model.norm.weight")


def test_a_link_that_leads_outside_is_refused_and_the_hub_cache_is_not(single: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    snapshot, blobs = hub / "snapshots" / "abc", hub / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (single / SINGLE).rename(blobs / "0f")
    (snapshot / "config.json").write_text((single / "config.json").read_text())
    (snapshot / SINGLE).symlink_to(Path("../../blobs/0f"))
    assert Checkpoint(snapshot).slice(0, 0).hi == 40
    (blobs / "0f").rename(tmp_path / "elsewhere")
    (snapshot / SINGLE).unlink()
    (snapshot / SINGLE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the checkpoint folder"):
        Checkpoint(snapshot)


def test_absent_files_are_refused(tmp_path: Path, single: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint folder"):
        Checkpoint(tmp_path / "nowhere")
    (single / SINGLE).unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor"):
        Checkpoint(single)


@pytest.mark.parametrize(
    ("layer", "expert", "lo", "hi", "sentence"),
    [(0, 0, 0, 8, "layer 0 of"), (1, 8, 0, 8, "experts 0 to 7, not 8"), (1, 0, 5, 41, r"\[5, 41\) do not lie in")],
)
def test_a_slice_that_does_not_exist_is_refused(
    tiny: Callable[[str], Path], layer: int, expert: int, lo: int, hi: int, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        Checkpoint(tiny("deepseek_v3")).slice(layer, expert, lo, hi)
