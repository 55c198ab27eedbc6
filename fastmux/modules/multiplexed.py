"""`Multiplexed`: any network on N rows at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastmux.modules.demultiplexers import DEMULTIPLEXERS, Demultiplexer
from fastmux.modules.groups import group
from fastmux.modules.image_multiplexers import IMAGE_MULTIPLEXERS, ImageMultiplexer
from fastmux.modules.multiplexer import MULTIPLEXERS, Multiplexer
from fastmux.modules.registry import Registry, known


class Multiplexed(nn.Module):
    """A network that runs once for N rows: stem (row by row), multiplexer, network, demultiplexer, head (row by row).

    The multiplexer binds the features at each position, in the same way at every position. An image (C, H, W) is H * W
    positions of C features, a vector (d) is one position. ``feature_dim`` tells which dimension holds the features. As
    in every multiplexed model, a row's output depends on the rows of its group. A short last group is filled with rows
    from the start of the batch.

    Binding the output of a first wide layer, the ``stem``, keeps more of a row than binding pixels (MIMONets, Menet et
    al., NeurIPS 2023, section 3). DataMUX (Murahari et al., NeurIPS 2022, section 5) multiplexes images and MLPs.

    Args:
        network: The network that runs on groups: it maps (G, ...) to (G, ...), with features at ``feature_dim`` in
            both.
        num_instances: N. With 1 nothing is bound: stem, network and head run exactly as they would alone.
        width: The number of features that are bound, of a row or of the stem's output.
        out_width: The number of features of the network's output. ``width`` if None.
        multiplexer: A name in `MULTIPLEXERS` or, for images (B, C, H, W), in `IMAGE_MULTIPLEXERS`; or a `Multiplexer`
            or `ImageMultiplexer`.
        demultiplexer: A name in `DEMULTIPLEXERS`, or a `Demultiplexer`. It must not need an index prefix.
        stem: The module that runs on every row before the multiplexer.
        head: The module that runs on every demultiplexed row, (B, ...).
        feature_dim: The dimension of the features: 1 for vectors (B, d) and images (B, C, H, W), -1 for sequences
            (B, L, d). None binds each row as one flat vector; the network gets it in the row's own shape.
        multiplexer_options: Keyword arguments for the class that ``multiplexer`` names.
        demultiplexer_options: Keyword arguments for the class that ``demultiplexer`` names.

    Raises:
        ValueError: A name or option is unknown, or the demultiplexer does not fit. In a call, a row has another width.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from fastmux import Multiplexed
        >>> network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        >>> head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> model = Multiplexed(network, 4, 8, stem=nn.Conv2d(1, 8, 3, padding=1), head=head)
        >>> model(torch.randn(9, 1, 6, 6)).shape
        torch.Size([9, 10])
    """

    def __init__(
        self,
        network: nn.Module,
        num_instances: int,
        width: int,
        *,
        out_width: int | None = None,
        multiplexer: str | Multiplexer | ImageMultiplexer = "hadamard",
        demultiplexer: str | Demultiplexer = "unbind",
        stem: nn.Module | None = None,
        head: nn.Module | None = None,
        feature_dim: int | None = 1,
        multiplexer_options: Mapping[str, object] | None = None,
        demultiplexer_options: Mapping[str, object] | None = None,
    ):
        super().__init__()
        if isinstance(num_instances, bool) or not isinstance(num_instances, int) or num_instances < 1:
            raise ValueError(f"num_instances is {num_instances!r}, expected an integer of at least 1")
        if feature_dim == 0:
            raise ValueError("feature_dim is 0, which is the rows' dimension; expected another one, or None")
        self.num_instances, self.width, self.feature_dim = num_instances, width, feature_dim
        self.out_width = width if out_width is None else out_width
        self.stem, self.network, self.head = stem, network, head
        self.multiplexer: Multiplexer | ImageMultiplexer | None = None
        self.demultiplexer: Demultiplexer | None = None
        self.unbinding: Multiplexer | None = None
        if num_instances == 1:
            return
        binding = multiplexer_options or {}
        self.multiplexer = _made(_registry(multiplexer), multiplexer, num_instances, width, binding)
        self.demultiplexer = _made(
            DEMULTIPLEXERS, demultiplexer, num_instances, self.out_width, demultiplexer_options or {}
        )
        if self.demultiplexer.has_prefix:
            raise ValueError(
                f"demultiplexer is {demultiplexer!r}, which needs the index prefix of a text model; "
                "expected one without a prefix, such as 'unbind', 'key' or 'mlp'"
            )
        if self.demultiplexer.takes_transforms:
            # The multiplexer's transforms or, where the network's output has another width, new ones of that width.
            self.unbinding = self.multiplexer
            if self.out_width != width and isinstance(self.multiplexer, Multiplexer):
                self.unbinding = _made(MULTIPLEXERS, multiplexer, num_instances, self.out_width, binding)
            if not isinstance(getattr(self.unbinding, "transforms", None), Tensor):
                raise ValueError(
                    f"demultiplexer is {demultiplexer!r}, which undoes a multiplexer's transforms; "
                    f"{type(self.multiplexer).__name__} has none. Use 'key' or 'mlp' with it"
                )

    def forward(self, x: Tensor, *more) -> Tensor:
        """Maps rows x (B, ...), any B, to the head's output (B, ...). ``more`` are further arguments of the network,
        such as a mask of groups or the edges of a graph."""
        rows = x.shape[0]
        x = x if self.stem is None else self.stem(x)
        if self.num_instances == 1:
            z = self.network(x, *more)
        else:
            y = self.network(self._bound(group(x, self.num_instances)), *more)
            h, shape = self._positions(y, 1, self.out_width, "the network's output")
            transforms = None if self.unbinding is None else self.unbinding.transforms
            z = self._back(self.demultiplexer(h, None, transforms), shape).flatten(0, 1)[:rows]
        return z if self.head is None else self.head(z)

    def _bound(self, x: Tensor) -> Tensor:
        """Multiplexes the rows of each group: (G, N, row) -> (G, row)."""
        if isinstance(self.multiplexer, ImageMultiplexer):
            if x.dim() != 5 or x.shape[2] != self.width:
                row = "x".join(map(str, x.shape[2:]))
                raise ValueError(f"a row is of shape {row}, expected an image of {self.width} channels, (C, H, W)")
            return self.multiplexer(x)
        positions, shape = self._positions(x, 2, self.width, "a row")
        return self._back(self.multiplexer(positions), shape)

    def _positions(self, x: Tensor, before: int, width: int, what: str) -> tuple[Tensor, torch.Size]:
        """Reshapes (..., row) to (..., L, d), and returns that and the row's shape with its features last. ``before``
        is the number of dimensions before the row's."""
        if self.feature_dim is None:
            shape = x.shape[before:]
            x = x.flatten(before)[..., None, :]
        else:
            x = x.movedim(self._feature_dim(before), -1)
            shape = x.shape[before:]
            x = x.flatten(before, -2) if x.dim() > before + 1 else x[..., None, :]
        if x.shape[-1] != width:
            name = "width" if before == 2 else "out_width"
            raise ValueError(f"{what} has {x.shape[-1]} features, expected {name} = {width}")
        return x, shape

    def _back(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Reshapes (..., L, d) to (..., row), the features in the dimension where the row had them."""
        x = x.reshape(*x.shape[:-2], *shape)
        if self.feature_dim is None:
            return x
        return x.movedim(-1, self._feature_dim(x.dim() - len(shape)))

    def _feature_dim(self, before: int) -> int:
        return self.feature_dim if self.feature_dim < 0 else self.feature_dim + before - 1

    def extra_repr(self) -> str:
        return f"num_instances={self.num_instances}, width={self.width}, out_width={self.out_width}"


def _registry(multiplexer: str | nn.Module) -> Registry:
    if not isinstance(multiplexer, str) or multiplexer in list(MULTIPLEXERS):
        return MULTIPLEXERS
    if multiplexer not in list(IMAGE_MULTIPLEXERS):
        named = known(multiplexer, [*MULTIPLEXERS, *IMAGE_MULTIPLEXERS])
        raise ValueError(f"multiplexer is {multiplexer!r}, expected one of {named}")
    return IMAGE_MULTIPLEXERS


def _made(registry: Registry, given, num_instances: int, width: int, options: Mapping[str, object]):
    """Returns ``given`` if it is a module, else an instance of the registered class of that name."""
    if not isinstance(given, str):
        if (given.num_instances, given.width) != (num_instances, width):
            raise ValueError(
                f"{registry.kind} is of {given.num_instances} instances and width {given.width}, expected "
                f"{num_instances} and {width}"
            )
        return given
    registry.check(given, options)
    return registry[given](num_instances, width, **options)
