# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""RoPE-Mixed (Heo et al., "Rotary Position Embedding for Vision Transformer", ECCV 2024) in a model's vision tower.

A patch at row p_h and column p_w turns frequency i of a head by ``theta_h[i] * p_h + theta_w[i] * p_w``. Both thetas
are learnable, for every layer and head; in stock, half of them are 0. The parameter is the difference from stock,
initially zero: step 0 equals stock, a cast to bf16 rounds the difference only, and weight decay pulls towards stock.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..utils.io import atomic_path


NAME = "rope_mixed_delta"
FILE = "clinkd_rope.safetensors"


def add_mixed(inner: nn.Module) -> None:
    """Registers the learnable differences, float32 ``[2, heads, head_dim / 2]``, on each vision block's attention."""
    tower = inner.visual
    tower.clinkd_handle = tower.register_forward_pre_hook(_add_patch_positions, with_kwargs=True)
    for block in tower.blocks:
        attention, weight = block.attn, block.attn.proj.weight
        delta = torch.zeros(2, attention.num_heads, attention.head_dim // 2, dtype=torch.float32, device=weight.device)
        attention.register_parameter(NAME, nn.Parameter(delta))
        attention.clinkd_handle = attention.register_forward_pre_hook(_rotate_per_head, with_kwargs=True)


def remove_mixed(inner: nn.Module) -> None:
    """Undoes :func:`add_mixed`; a stock model is left unchanged."""
    for module in (inner.visual, *(block.attn for block in inner.visual.blocks)):
        if "clinkd_handle" in vars(module):
            module.clinkd_handle.remove()
            del module.clinkd_handle
        module._parameters.pop(NAME, None)


def mixed_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(layer number, trainable parameter) of each learnable difference, in the order of the layers."""
    deltas = (p for name, p in model.named_parameters() if name.rpartition(".")[2] == NAME)
    return ((f"{layer}", parameter) for layer, parameter in enumerate(deltas))


def fix_mixed(model: nn.Module, device: torch.device) -> None:
    """Makes the differences constants on ``device``: offloading would move parameters after a pre-hook reads them."""
    for module in model.modules():
        delta = module._parameters.pop(NAME, None)
        if delta is not None:
            setattr(module, NAME, delta.detach().to(device))


def write_mixed(
    directory: str | Path, model: nn.Module, *, state_dict: dict[str, Tensor] | None = None
) -> Path | None:
    """Writes the learned differences to ``clinkd_rope.safetensors`` in ``directory``; returns None if there are none.

    A full checkpoint holds them too, but ``from_pretrained`` reads stock names only, and an adapter has none.
    ``state_dict`` holds the gathered weights of a sharded model, as ``save_pretrained`` gets them.

    Raises:
        RuntimeError: If the parameters are sharded and ``state_dict`` has none of them.
    """
    gathered = [tensor for name, tensor in (state_dict or {}).items() if name.rpartition(".")[2] == NAME]
    tensors = gathered or [parameter.detach() for _, parameter in mixed_parameters(model)]
    if not tensors:
        return None
    if any(tensor.numel() == 0 for tensor in tensors):
        raise RuntimeError(
            "The learned frequencies are partitioned by DeepSpeed ZeRO-3. Set "
            "`stage3_gather_16bit_weights_on_model_save: true`, or write them inside "
            "`deepspeed.zero.GatheredParameters([p for _, p in mixed_parameters(model)])`."
        )
    path = Path(directory) / FILE
    with atomic_path(path) as temporary:
        save_file({f"{layer}": tensor.float().cpu().contiguous() for layer, tensor in enumerate(tensors)}, temporary)
    return path


def read_mixed(directory: str | Path, model: nn.Module) -> bool:
    """Loads the file of :func:`write_mixed` into a model that has ``rope_mixed``; returns whether there is a file.

    Raises:
        ValueError: If the file and the model do not have the same layers and shapes.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return False
    saved, parameters = load_file(path), dict(mixed_parameters(model))
    shapes = [{name: tuple(tensor.shape) for name, tensor in side.items()} for side in (saved, parameters)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{path} holds frequencies of the shapes {shapes[0]}, the model's are {shapes[1]}. Apply `rope_mixed` to "
            "the model that the file was trained with first."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    return True


def patch_positions(grid_thw: Tensor, merge_size: int) -> Tensor:
    """Row and column, int64 ``[patches, 2]``, of every patch of ``grid_thw``, int64 ``[items, 3]``.

    Patches are in Qwen2-VL's order: frames, then merged cells, then the ``merge_size ** 2`` patches of a cell.
    """
    sizes = grid_thw.prod(1)
    item = torch.repeat_interleave(sizes)
    offset = torch.arange(len(item), device=grid_thw.device) - (sizes.cumsum(0) - sizes)[item]
    height, width = grid_thw[item, 1], grid_thw[item, 2]
    offset = offset % (height * width)
    cell, inside = offset // merge_size**2, offset % merge_size**2
    cells = width // merge_size
    rows = cell // cells * merge_size + inside // merge_size
    return torch.stack((rows, cell % cells * merge_size + inside % merge_size), 1)


def _add_patch_positions(tower: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Passes the patch positions to every block as an argument, which gradient checkpointing replays correctly."""
    grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
    positions = patch_positions(grid, tower.spatial_merge_size)
    if hasattr(tower, "get_window_index"):  # Qwen2.5-VL's blocks see merged cells in the order of their windows
        windows, _ = tower.get_window_index(grid)
        positions = positions.view(-1, tower.spatial_merge_unit, 2)[windows.to(grid.device)].view(-1, 2)
    return args, {**kwargs, "patch_positions": positions}


def _rotate_per_head(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Adds the learned angles to the stock ones (by the addition theorems), per head."""
    patches = kwargs.pop("patch_positions")
    delta = getattr(attention, NAME).float()
    angles = patches[:, 0, None, None] * delta[0] + patches[:, 1, None, None] * delta[1]
    angles = angles.repeat(1, 1, 2)
    cos, sin = (tensor.float().unsqueeze(1) for tensor in kwargs["position_embeddings"])
    rotated = (cos * angles.cos() - sin * angles.sin(), sin * angles.cos() + cos * angles.sin())
    return args, {**kwargs, "position_embeddings": tuple(_PerHead(tensor) for tensor in rotated)}


class _PerHead:
    """Cosines or sines ``[patches, heads, head_dim]`` in place of stock's ``[patches, head_dim]``.

    In transformers 5.0 to 5.8, ``apply_rotary_pos_emb_vision`` adds the head axis by ``cos.unsqueeze(-2).float()``.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def unsqueeze(self, dim: int) -> Tensor:
        if dim != -2:
            raise RuntimeError(f"transformers adds the head axis at {dim}, expected -2; rope_mixed needs 5.0 to 5.8.")
        return self.tensor
