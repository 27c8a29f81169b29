"""Tokens of texts, of which none is cut off: tokenizers cut off silently, and the end of a prompt has the class name."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.system.errors import PipelineError


class LongTextError(PipelineError):
    """A text has more tokens than a teacher takes.

    Args:
        text: the text.
        limit: most tokens, start and end included.
        class_name: class that the text is a prompt of.
    """

    def __init__(self, text: str, limit: int, class_name: str = "") -> None:
        short = text if len(text) <= 100 else f"{text[:100]}..."
        problem = f"{short!r} has more tokens than the {limit} that the teacher takes."
        super().__init__(
            f"Class {class_name!r}: the prompt {problem} Give the class a shorter display name, under [classes], or set shorter "
            "templates."
            if class_name
            else f"The text {problem} Shorten it."
        )
        self.text = text
        self.limit = limit


def whole_tokens(tokenizer: Callable[[list[str], int], Tensor], texts: Sequence[str], limit: int) -> Tensor:
    """Tokens of C texts, integer Tensor[C, limit].

    A text is whole if it has the same tokens with room for one more, which is padding then. This holds for every kind of
    tokenizer: with or without a start, an end, or a class token in the last place.

    Args:
        tokenizer: texts and a number of tokens to Tensor[C, tokens], cut off or padded.
        texts: C texts.
        limit: see `LongTextError`.

    Raises:
        LongTextError: a text is cut off.
    """
    tokens, roomy = tokenizer(list(texts), limit), tokenizer([*texts, ""], limit + 1)
    empty = roomy[-1]
    last = -1 if empty[-1] == empty[-2] else -2  # before a class token
    short = tokens.shape[1] + 1 + last
    whole = (roomy[:-1, :short] == tokens[:, :short]).all(dim=1) & (roomy[:-1, last] == empty[last])
    if not whole.all():
        raise LongTextError(texts[int(torch.nonzero(~whole)[0])], limit)
    return tokens
