"""The formulas of dense inference one cell and one head at a time."""

import torch


def pooled_values(pool, features):
    """A CLIP ResNet's cells (TaI-DPT): [E, h, w] to [h, w, D], each vector through the value and the output projection."""
    cells = torch.zeros(*features.shape[1:], pool.c_proj.out_features)
    for y in range(features.shape[1]):
        for x in range(features.shape[2]):
            value = pool.v_proj.weight @ features[:, y, x] + pool.v_proj.bias
            cells[y, x] = pool.c_proj.weight @ value + pool.c_proj.bias
    return cells


def last_block(block, tokens, attention):
    """The patches behind the last block of a CLIP ViT, [1 + hw, E] to [hw, E]; "values" is MaskCLIP, "sclip" SCLIP."""
    normed, heads = block.ln_1(tokens), block.attn.num_heads
    weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
    query, key, value = (normed @ weight.T + bias for weight, bias in zip(weights, biases, strict=True))
    size = tokens.shape[1] // heads
    scales = [getattr(block, name, lambda x: x) for name in ("ls_1", "ls_2")]
    cells = []
    for token in range(1, len(tokens)):
        mixed = value[token].clone()
        for head in range(heads if attention == "sclip" else 0):
            part = slice(head * size, (head + 1) * size)
            share = sum(((each[:, part] @ each[token, part]) / size**0.5).softmax(0) for each in (query, key))
            mixed[part] = sum(weight * other for weight, other in zip(share, value[:, part], strict=True))
        cell = tokens[token] + scales[0](block.attn.out_proj(mixed))
        cells.append(cell + scales[1](block.mlp(block.ln_2(cell))))
    return torch.stack(cells)
