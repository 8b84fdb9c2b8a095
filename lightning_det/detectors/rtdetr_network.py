"""RT-DETRv2's encoder and decoder in the layers of ``transformers``, for views with padding.

Layers, names of tensors and numbers are those of ``RTDetrV2Model``. Its own ``forward`` takes padding for image,
and waits for the device in every encoder and decoder layer, so the layers are called from here.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.rt_detr_v2.configuration_rt_detr_v2 import RTDetrV2Config
from transformers.models.rt_detr_v2.modeling_rt_detr_v2 import (
    RTDetrV2Decoder,
    RTDetrV2HybridEncoder,
    RTDetrV2MLPPredictionHead,
    build_2d_sinusoidal_position_embedding,
    inverse_sigmoid,
    multi_scale_deformable_attention_v2,
)

from lightning_det.detectors.rtdetr_loss import Queries

FIRST_SIDE = 0.05
"""Side of the boxes from which cells of the finest map start, as a share of the view; each coarser map doubles it."""

MARGIN = 0.01
"""Least distance of a query's cell from the border of the view, as a share of the view."""

HIDDEN = -1e4
"""Attention logits of padding: far below any other, and finite in half precision."""


class RTDetrNetwork(nn.Module):
    """Feature maps to predictions of queries (Zhao et al., CVPR 2024; Lv et al. 2024).

    Args:
        channels: channels of the backbone's maps.
        strides: their strides, each twice the one before.
        num_classes: object classes.
        queries: queries per view.
        layers: decoder layers.
        width: channels of encoder and decoder.
        heads: heads of every attention.
        feedforward: width of the feed-forward layers.
        expansion: width of the encoder's convolution blocks, as a share of ``width``.
        points: sampling points per head and map.
        prior: probability of every class that the fresh network predicts.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        queries: int,
        layers: int,
        width: int,
        heads: int,
        feedforward: int,
        expansion: float,
        points: int,
        prior: float,
    ):
        super().__init__()
        maps = len(channels)
        config = RTDetrV2Config(
            num_labels=num_classes,
            num_queries=queries,
            num_denoising=0,
            encoder_hidden_dim=width,
            encoder_in_channels=list(channels),
            encoder_ffn_dim=feedforward,
            encoder_attention_heads=heads,
            encode_proj_layers=[maps - 1],
            feat_strides=list(strides),
            hidden_expansion=float(expansion),  # transformers refuses whole numbers
            d_model=width,
            decoder_in_channels=[width] * maps,
            decoder_ffn_dim=feedforward,
            decoder_layers=layers,
            decoder_attention_heads=heads,
            decoder_n_levels=maps,
            decoder_n_points=points,
            num_feature_levels=maps,
        )
        self.config = config
        self.queries = queries
        self.strides = list(strides)
        self.encoder_input_proj = nn.ModuleList(_project(c, width) for c in channels)
        self.encoder = RTDetrV2HybridEncoder(config)
        self.decoder_input_proj = nn.ModuleList(_project(width, width) for _ in channels)
        self.enc_output = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.enc_score_head = nn.Linear(width, num_classes)
        self.enc_bbox_head = RTDetrV2MLPPredictionHead(width, width, 4, num_layers=3)
        self.decoder = RTDetrV2Decoder(config)
        self.decoder.class_embed = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(layers))
        self.decoder.bbox_embed = nn.ModuleList(
            RTDetrV2MLPPredictionHead(width, width, 4, num_layers=3) for _ in range(layers)
        )
        self._initialise(prior)

    def forward(self, maps: list[Tensor], sizes: Tensor) -> Queries:
        """Predicts classes and boxes.

        Args:
            maps: (B, C, h, w) each, finest first, of a canvas whose sides are multiples of the coarsest stride.
            sizes: (B, 2) height and width of the views without padding.
        """
        inside = [_cells_inside(m, stride, sizes) for m, stride in zip(maps, self.strides, strict=True)]
        encoded = self._encode(maps, inside)
        shapes = [tuple(m.shape[-2:]) for m in encoded]
        memory = torch.cat([_flatten(proj(m)) for proj, m in zip(self.decoder_input_proj, encoded, strict=True)], dim=1)
        anchors, usable = self._anchors(shapes, sizes, memory)
        output = self.enc_output(memory * usable[..., None])
        logits = self.enc_score_head(output)
        offsets = self.enc_bbox_head(output).float() + anchors
        rank = logits.max(dim=-1).values.masked_fill(~usable, -torch.inf)
        place = rank.topk(min(self.queries, rank.shape[1]), dim=1).indices
        logits, offsets, hidden = (_pick(x, place) for x in (logits, offsets, output))
        found = usable.gather(1, place)
        first = offsets.sigmoid()
        height, width = (cells * self.strides[0] for cells in shapes[0])
        share = torch.stack([sizes[:, 1] / width, sizes[:, 0] / height], dim=1).repeat(1, 2)
        all_logits, all_boxes = self._decode(
            hidden.detach(),
            first.detach(),
            memory,
            torch.cat([i.flatten(1) for i in inside], dim=1),
            found,
            shapes,
            share[:, None].to(first),
        )
        return Queries(torch.stack([logits.float(), *all_logits]), torch.stack([first, *all_boxes]), found)

    def _encode(self, maps: list[Tensor], inside: list[Tensor]) -> list[Tensor]:
        """Attention within the coarsest map, then a pathway down and one up; padding is 0 between the blocks."""
        encoder = self.encoder
        x = [proj(m) * i for proj, m, i in zip(self.encoder_input_proj, maps, inside, strict=True)]
        x[-1] = self._attend(x[-1], inside[-1]) * inside[-1]
        down = [x[-1]]
        steps = zip(encoder.lateral_convs, encoder.fpn_blocks, x[-2::-1], inside[-2::-1], strict=True)
        for lateral, block, finer, shown in steps:
            down[-1] = lateral(down[-1])
            up = F.interpolate(down[-1], scale_factor=2.0, mode="nearest")
            down.append(block(torch.cat([up, finer], dim=1) * shown) * shown)
        down.reverse()
        found = [down[0]]
        for halve, block, coarser, shown in zip(
            encoder.downsample_convs, encoder.pan_blocks, down[1:], inside[1:], strict=True
        ):
            found.append(block(torch.cat([halve(found[-1]), coarser], dim=1) * shown) * shown)
        return found

    def _attend(self, x: Tensor, inside: Tensor) -> Tensor:
        """The transformer layers of the encoder, on one map."""
        aifi = self.encoder.aifi[0]
        height, width = x.shape[-2:]
        tokens, mask = _flatten(x), _mask(inside.flatten(1), x)
        place = build_2d_sinusoidal_position_embedding(
            height,
            width,
            embed_dim=x.shape[1],
            temperature=self.encoder.positional_encoding_temperature,
            device=x.device,
            dtype=x.dtype,
        )[None]
        for layer in aifi.layers:
            seen, _ = layer.self_attn(tokens, attention_mask=mask, position_embeddings=place)
            tokens = layer.self_attn_layer_norm(tokens + seen)
            tokens = layer.final_layer_norm(tokens + layer.mlp(tokens))
        return tokens.transpose(1, 2).reshape(x.shape)

    def _anchors(self, shapes: list[Any], sizes: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, N, 4) of the boxes from which cells of all maps start, and which cells (B, N) may be queries."""
        boxes = []
        for level, ((height, width), stride) in enumerate(zip(shapes, self.strides, strict=True)):
            y, x = ((torch.arange(n, device=sizes.device) + 0.5) * stride for n in (height, width))
            centre = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
            centre = (centre / sizes[:, None]).flip(-1)
            boxes.append(torch.cat([centre, torch.full_like(centre, FIRST_SIDE * 2**level)], dim=-1))
        anchors = torch.cat(boxes, dim=1).to(like.dtype if like.dtype == torch.float64 else torch.float32)
        usable = ((anchors > MARGIN) & (anchors < 1 - MARGIN)).all(dim=-1)
        return anchors.clamp(MARGIN, 1 - MARGIN).logit(), usable

    def _decode(
        self,
        hidden: Tensor,
        boxes: Tensor,
        memory: Tensor,
        inside: Tensor,
        usable: Tensor,
        shapes: list[Any],
        share: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Class logits and boxes after every layer of the decoder.

        Args:
            hidden: (B, Q, width) contents of the queries.
            boxes: (B, Q, 4) their boxes.
            memory: (B, N, width) cells of all maps.
            inside: (B, N) whether they are not padding.
            usable: (B, Q) whether the queries are not from padding.
            shapes: (height, width) of every map.
            share: (B, 1, 4) width and height of the views as a share of the canvas, twice.
        """
        mask = _mask(usable, hidden)
        logits, found = [], []
        heads = zip(self.decoder.layers, self.decoder.class_embed, self.decoder.bbox_embed, strict=True)
        for layer, classify, regress in heads:
            place = self.decoder.query_pos_head(boxes.to(hidden))
            seen, _ = layer.self_attn(hidden, attention_mask=mask, position_embeddings=place)
            hidden = layer.self_attn_layer_norm(hidden + seen)
            seen = _sample(layer.encoder_attn, hidden + place, (boxes * share).to(hidden), memory, inside, shapes)
            hidden = layer.encoder_attn_layer_norm(hidden + seen)
            hidden = layer.final_layer_norm(hidden + layer.mlp(hidden))
            logits.append(classify(hidden).float())
            found.append((regress(hidden).float() + inverse_sigmoid(boxes)).sigmoid())
            boxes = found[-1].detach()
        return logits, found

    def _initialise(self, prior: float) -> None:
        """Initial weights as in the authors' code. The library's, with BatchNorm near 0, are for loading."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and "encoder_attn" not in name:
                layer.reset_parameters()
        classify = [self.enc_score_head, *self.decoder.class_embed]
        regress = [self.enc_bbox_head, *self.decoder.bbox_embed]
        for layer in classify:
            nn.init.constant_(layer.bias, -math.log((1 - prior) / prior))
        for head in regress:
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        projections = (next(p.children()) for p in self.decoder_input_proj)
        for layer in (self.enc_output[0], *self.decoder.query_pos_head.layers, *projections):
            nn.init.xavier_uniform_(layer.weight)


def _sample(
    attention: Any, queries: Tensor, boxes: Tensor, memory: Tensor, inside: Tensor, shapes: list[Any]
) -> Tensor:
    """Deformable attention: reads the maps at points around each query's box (Zhu et al., ICLR 2021).

    Args:
        attention: layer of the library, whose own ``forward`` waits for the device to compare two sizes.
        queries: (B, Q, width).
        boxes: (B, Q, 4) centre, width and height as shares of the canvas.
        memory: (B, N, width) cells of all maps.
        inside: (B, N) bool, False for padding, which is read as 0, like what lies outside the canvas.
        shapes: (height, width) of every map.
    """
    heads, points = attention.n_heads, attention.n_levels * attention.n_points
    values = attention.value_proj(memory).masked_fill(~inside[..., None], 0.0).unflatten(2, (heads, -1))
    offsets = attention.sampling_offsets(queries).unflatten(2, (heads, points, 2))
    weights = attention.attention_weights(queries).unflatten(2, (heads, points)).softmax(dim=-1)
    reach = attention.n_points_scale.to(queries)[:, None] * attention.offset_scale
    places = boxes[:, :, None, None, :2] + offsets * reach * boxes[:, :, None, None, 2:]
    read = multi_scale_deformable_attention_v2(
        values, shapes, places, weights, attention.n_points_list, attention.method
    )
    return attention.output_proj(read)


def _project(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _flatten(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def _pick(x: Tensor, place: Tensor) -> Tensor:
    """Rows ``place`` (B, Q) of ``x`` (B, N, C)."""
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))


def _cells_inside(x: Tensor, stride: int, sizes: Tensor) -> Tensor:
    """(B, 1, h, w) bool, which cells of a map show a part of their view."""
    rows, columns = (torch.arange(n, device=x.device) * stride for n in x.shape[-2:])
    return ((rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None])[:, None]


def _mask(visible: Tensor, like: Tensor) -> Tensor:
    """(B, 1, 1, N) what is added to the logits of attention; ``visible`` is (B, N) bool."""
    return torch.zeros_like(visible, dtype=like.dtype).masked_fill(~visible, HIDDEN)[:, None, None]
