"""Small transformers and their data: bytes of the standard library's sources, MNIST and CIFAR-10.

Each is trained once, on one thread with a fixed seed, and its weights are kept in ``PATHNORM_CACHE``, else in
``~/.cache/pathnorm-benchmarks``. The name of the file has a digest of the architecture, the training and the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks._harness import data_root
from benchmarks.cifar_resnet import load_cifar10

__all__ = ["NETWORKS", "Attention", "Block", "Case", "Training", "Transformer", "losses", "ready"]

CONTEXT = 128
TEXT_BYTES = 6_000_000
TEXT_FOLDERS_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
VALIDATION_FILE = 10  # every tenth file
TEST_WINDOWS = 1_000
TEST_IMAGES = 10_000
PATCH = 4
_WARM_UP = 0.1
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """AdamW; the learning rate rises over a tenth of the run and falls to zero along a cosine."""

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.1
    seed: int = 0


class Attention(nn.Module):
    """Heads of a fixed size; their number is that of the rows of the projections."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.head_dim, self.causal = width // heads, causal

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    """Pre-normalised attention and a feed-forward layer four times as wide."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads, causal=causal)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Transformer(nn.Module):
    """Embedding, positions, blocks, LayerNorm and a linear layer, in three steps that can be run one by one."""

    def __init__(self, *, width: int, heads: int, depth: int, tokens: int, outputs: int, causal: bool) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads, causal=causal) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                parameter.data /= math.sqrt(2 * depth)

    def stem(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def readout(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.readout(x)


class GPT(Transformer):
    """The next byte from up to 128 bytes: token ids (N, T) to logits (N, T, 256)."""

    def __init__(self, *, width: int, heads: int, depth: int) -> None:
        super().__init__(width=width, heads=heads, depth=depth, tokens=CONTEXT, outputs=256, causal=True)
        self.embedding = nn.Embedding(256, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def stem(self, x: Tensor) -> Tensor:
        return self.embedding(x) + self.positions[: x.shape[1]]


class ViT(Transformer):
    """The class of a square image from its patches of 4 x 4, averaged before the last layer."""

    def __init__(self, *, width: int, heads: int, depth: int, channels: int, size: int) -> None:
        super().__init__(width=width, heads=heads, depth=depth, tokens=(size // PATCH) ** 2, outputs=10, causal=False)
        self.patches = nn.Conv2d(channels, width, PATCH, PATCH)

    def stem(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(2).transpose(1, 2) + self.positions

    def readout(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A trained network, what it is tested on, and draws of unlabelled calibration data.

    ``draw(n, generator)`` returns n training inputs without labels. ``outputs`` is what ``compress`` is told of the
    network's outputs, ``slide_batch`` the samples per step of sliding; ``data`` says where data are from.
    """

    name: str
    model: Transformer
    inputs: Tensor
    targets: Tensor
    draw: Callable[[int, torch.Generator], Tensor]
    outputs: str
    slide_batch: int
    data: dict[str, Any]
    training: dict[str, Any]


def sources() -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return the bytes of training and of validation files of the standard library, and what they are.

    Files in the order of their names, tests and installed packages left out; every tenth is for validation.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    size, number = 0, 0
    for path in sorted(root.rglob("*.py"), key=lambda item: item.relative_to(root).as_posix()):
        if TEXT_FOLDERS_LEFT_OUT & set(path.relative_to(root).parts):
            continue
        content = path.read_bytes()
        parts[number % VALIDATION_FILE == VALIDATION_FILE - 1].append(content)
        size, number = size + len(content), number + 1
        if size >= TEXT_BYTES:
            break
    train, validation = (b"\n".join(part) for part in parts)
    facts = {
        "text": "sources of the standard library",
        "files": [len(part) for part in parts],
        "bytes": [len(train), len(validation)],
        "sha256": hashlib.sha256(train + validation).hexdigest()[:16],
    }
    as_bytes = (torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in (train, validation))
    return *as_bytes, facts


def _gpt(training: Training) -> Case:
    text, held, facts = sources()
    model = _made(GPT, width=128, heads=8, depth=4, seed=training.seed)
    starts = torch.linspace(0, held.numel() - CONTEXT - 1, TEST_WINDOWS).long()
    test = _cut(held, starts)
    return Case(
        name="gpt",
        model=model,
        inputs=test[:, :-1],
        targets=test[:, 1:],
        draw=lambda n, generator: _windows(text, n, generator)[0],
        outputs="values",
        slide_batch=16,
        data=facts | {"test_windows": TEST_WINDOWS, "context": CONTEXT},
        training=_trained("gpt", model, training, facts, lambda draws: _windows(text, training.batch, draws)),
    )


def _windows(text: Tensor, n: int, generator: torch.Generator) -> Pair:
    """Draw n windows of the text and what follows each of their bytes."""
    found = _cut(text, torch.randint(text.numel() - CONTEXT, (n,), generator=generator))
    return found[:, :-1], found[:, 1:]


def _cut(text: Tensor, starts: Tensor) -> Tensor:
    return text[starts[:, None] + torch.arange(CONTEXT + 1)].long()


def mnist(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the first ``count`` digits, centred and scaled (n, 1, 28, 28), and their labels."""
    folder = data_root() / "mnist"
    parts: list[np.ndarray] = []
    for path in sorted(folder.glob(f"{split}_*.webp")):
        sheet = np.asarray(Image.open(path).convert("L"))
        rows, columns = sheet.shape[0] // 28, sheet.shape[1] // 28
        parts.append(sheet.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 1, 28, 28))
        if sum(part.shape[0] for part in parts) >= count:
            break
    images = torch.from_numpy(np.concatenate(parts)[:count]).float() / 255
    labels = torch.from_numpy(np.load(folder / f"{split}_labels.npy")[:count].astype(np.int64))
    return (images - 0.1307) / 0.3081, labels


def _vit_mnist(training: Training) -> Case:
    return _vit("vit-mnist", training, mnist("train", 60_000), mnist("test", TEST_IMAGES), mirror=False)


def _vit_cifar10(training: Training) -> Case:
    root = data_root()
    train, test = load_cifar10(root, "train", 50_000), load_cifar10(root, "test", TEST_IMAGES)
    return _vit("vit-cifar10", training, train, test, mirror=True)


def _vit(name: str, training: Training, train: Pair, test: Pair, *, mirror: bool) -> Case:
    images, labels = train
    channels, size = images.shape[1], images.shape[2]
    model = _made(ViT, width=128, heads=8, depth=4, seed=training.seed, channels=channels, size=size)

    def batch(generator: torch.Generator) -> Pair:
        chosen = torch.randint(len(images), (training.batch,), generator=generator)
        flipped = torch.rand(training.batch, generator=generator) < 0.5 * mirror
        return torch.where(flipped[:, None, None, None], images[chosen].flip(3), images[chosen]), labels[chosen]

    facts = {"images": name.removeprefix("vit-"), "train_images": len(images)}
    return Case(
        name=name,
        model=model,
        inputs=test[0],
        targets=test[1],
        draw=lambda n, generator: images[torch.randperm(len(images), generator=generator)[:n]],
        outputs="logits",
        slide_batch=32,
        data=facts | {"test_images": len(test[0])},
        training=_trained(name, model, training, facts, batch),
    )


def _made(kind: type[Transformer], *, seed: int, **shape: int) -> Transformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(**shape)  # type: ignore[call-arg]


def _trained(
    name: str,
    model: Transformer,
    training: Training,
    data: dict[str, Any],
    batch: Callable[[torch.Generator], Pair],
) -> dict[str, Any]:
    """Load the weights of ``model`` from the cache, or train it and keep them; return how it was trained."""
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    stated = json.dumps([asdict(training), data, shapes], sort_keys=True)
    path = _cache() / f"{name}-{hashlib.sha256(stated.encode()).hexdigest()[:12]}.safetensors"
    seconds = path.with_suffix(".json")
    if not path.exists():
        started = time.perf_counter()
        _fit(model, training, batch)
        seconds.write_text(json.dumps(round(time.perf_counter() - started)), encoding="utf-8")
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    model.eval()
    return asdict(training) | {"seconds": json.loads(seconds.read_text(encoding="utf-8"))}


def _fit(model: Transformer, training: Training, batch: Callable[[torch.Generator], Pair]) -> None:
    """Minimise the cross-entropy; weights of linear layers decay, vectors do not."""
    generator = torch.Generator().manual_seed(training.seed)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": training.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=training.lr,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.lr, total_steps=training.steps, pct_start=_WARM_UP, cycle_momentum=False
    )
    model.train()
    for step in range(training.steps):
        inputs, targets = batch(generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == training.steps - 1:
            print(f"  step {step}: {float(loss.detach()):.3f}", flush=True)


def losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return per sample the cross-entropy, averaged over positions, and the share of right answers, float64 (N,)."""
    found = list(_losses(model, inputs, targets))
    return torch.cat([loss for loss, _ in found]), torch.cat([right for _, right in found])


def _losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        for x, y in zip(inputs.split(100), targets.split(100), strict=True):
            logits = model(x).flatten(0, -2)
            loss = F.cross_entropy(logits, y.flatten(), reduction="none").double()
            right = (logits.argmax(1) == y.flatten()).double()
            yield loss.view(len(x), -1).mean(1), right.view(len(x), -1).mean(1)


def _cache() -> Path:
    folder = Path(os.environ.get("PATHNORM_CACHE") or Path.home() / ".cache" / "pathnorm-benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


NETWORKS: dict[str, tuple[Callable[[Training], Case], Training]] = {
    "gpt": (_gpt, Training(steps=2500, batch=16, lr=2e-3)),
    "vit-mnist": (_vit_mnist, Training(steps=1000, batch=64, lr=1e-3, weight_decay=0.05)),
    "vit-cifar10": (_vit_cifar10, Training(steps=2400, batch=64, lr=1e-3, weight_decay=0.05)),
}


def ready(name: str, *, steps: int | None = None) -> Case:
    """Return a network of :data:`NETWORKS` with trained weights; fewer ``steps`` make another network."""
    build, training = NETWORKS[name]
    return build(training if steps is None else Training(**asdict(training) | {"steps": steps}))
