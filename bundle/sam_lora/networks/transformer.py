"""The two-way transformer of SAM's mask decoder (Kirillov et al. 2023, section A, "Lightweight mask decoder")."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sam_lora.networks.layers import MLPBlock


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its outer one.

    Args:
        channels: width of input and output.
        num_heads: heads.
        downsample: outer width over inner width.
    """

    def __init__(self, channels: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = channels // downsample
        self.num_heads = num_heads
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_is_token: Tensor | None = None) -> Tensor:
        """Attend from ``q (B, Q, C)`` over ``k, v (B, K, C)``.

        Args:
            q: queries.
            k: keys.
            v: values.
            key_is_token: ``(B, K)``, False where a key is padding and must not be seen.

        Returns:
            ``(B, Q, C)``.
        """
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        mask = None if key_is_token is None else key_is_token[:, None, None, :]
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to tokens, tokens to the image, an MLP on tokens, and the image to tokens.

    Args:
        channels: width of tokens and image positions.
        num_heads: heads.
        mlp_channels: hidden width of the MLP.
        first: the first block takes its queries as they are, without positions and without a residual.
    """

    def __init__(self, channels: int, num_heads: int, mlp_channels: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(channels, num_heads)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn_token_to_image = Attention(channels, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLPBlock(channels, mlp_channels, nn.ReLU)
        self.norm3 = nn.LayerNorm(channels)
        self.norm4 = nn.LayerNorm(channels)
        self.cross_attn_image_to_token = Attention(channels, num_heads, downsample=2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, is_token: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update both sides.

        Args:
            tokens: ``(B, T, C)``.
            image: ``(B, h * w, C)``.
            token_pe: positions of the tokens ``(B, T, C)``.
            image_pe: positions of the image ``(1, h * w, C)``.
            is_token: ``(B, T)``, False where a token is padding.

        Returns:
            Tokens and image, shapes as given.
        """
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens, is_token)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens, is_token)
        tokens = self.norm1(tokens)
        keys = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(keys, tokens + token_pe, tokens, is_token))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Blocks of :class:`TwoWayAttentionBlock` and a last attention from tokens to the image.

    Args:
        depth: number of blocks.
        channels: width of tokens and image positions.
        num_heads: heads.
        mlp_channels: hidden width of the MLPs.
    """

    def __init__(self, depth: int = 2, channels: int = 256, num_heads: int = 8, mlp_channels: int = 2048) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(channels, num_heads, mlp_channels, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(channels, num_heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(channels)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens and image positions read each other.

        Args:
            image: embedding plus dense prompt ``(B, C, h, w)``.
            image_pe: positions ``(1, C, h, w)``.
            tokens: output tokens and prompt tokens ``(B, T, C)``.
            is_token: ``(B, T)``, False where a token is padding: no attention sees it.

        Returns:
            Tokens ``(B, T, C)`` and image ``(B, h * w, C)``.
        """
        # Contiguous: adding to a transposed view takes as long as several of the attentions.
        image, image_pe = (x.flatten(2).transpose(1, 2).contiguous() for x in (image, image_pe))
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, is_token)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image
