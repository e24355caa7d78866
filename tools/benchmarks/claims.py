"""Four claims that are made for the GRU (readable, extensible, flexible, parallel), each answered by a measurement."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.tables import Lines, Table
from benchmarks.timing import interleaved
from pipeline.config import ModelConfig
from pipeline.models.temporal import fast, prepared, winograd
from pipeline.models.temporal.convgru import ConvGRU
from pipeline.models.temporal.convlstm import ConvLSTM
from pipeline.models.temporal.head import State, TemporalHead
from pipeline.models.temporal.mingru import ConvMinGRU, MinGRU
from pipeline.models.temporal.pooling import Mean
from pipeline.models.temporal.stack import Stack, build_temporal

_VECTOR_HEADS = ("mean", "rnn", "lstm", "gru", "mingru")
_LENGTHS = (8, 16, 32, 64)
_TRAINED_LENGTH, _TRAINING_STEPS = 16, 300
_LONG = (16, 64, 256)


class Leaky(TemporalHead):
    """A new head, as somebody might add one: a running mean that forgets, at a rate learned for each feature."""

    streams, reads_maps = True, False

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features
        self.rate = nn.Parameter(torch.zeros(num_features))

    def recur(self, projected: Tensor, state: State = None) -> tuple[Tensor, State]:
        hidden, outputs = torch.zeros_like(projected[:, 0]) if state is None else state, []
        for x in projected.unbind(1):
            hidden = torch.lerp(hidden, x, torch.sigmoid(self.rate))
            outputs.append(hidden)
        return torch.stack(outputs, dim=1), hidden


def claim_tables(rounds: int) -> list[Table]:
    """A table for each claim."""
    return [readable(), extensible(), flexible(), parallel(rounds)]


def readable() -> Table:
    """How much there is to read."""
    own: dict[str, list[type | ModuleType]] = {
        "mean": [Mean],
        "mingru": [MinGRU],
        "convmingru": [ConvMinGRU],
        "convgru": [ConvGRU],
        "convlstm": [ConvLSTM],
        "all that is written by hand for a CPU": [fast, prepared, winograd],
        "leaky, the new head below": [Leaky],
    }
    rows: dict[str, dict[str, float | None]] = {
        name: {"lines of code": sum(map(lines_of_code, classes))} for name, classes in own.items()
    }
    return Table(
        "Readable?", "Lines without comments, docstrings and blank lines. rnn, lstm and gru are torch's.", rows
    )


def lines_of_code(item: type | ModuleType) -> int:
    """Lines of a class or module, without docstrings, comments and blank lines."""
    code = ast.unparse(_without_docstrings(ast.parse(textwrap.dedent(inspect.getsource(item)))))
    return sum(bool(line.strip()) for line in code.splitlines())


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Module)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def extensible() -> Table:
    """What the new head gives without a line more than its class: chunks, stacks, training."""
    torch.manual_seed(0)
    head = Stack([Leaky(8)], dropout=0.0).eval()
    x = torch.randn(2, 12, 8)
    with torch.no_grad():
        whole, _ = head(x)
        first, state = head(x[:, :5])
        second, _ = head(x[:, 5:], state)
    difference = float((torch.cat([first, second], dim=1) - whole).abs().max())
    row: dict[str, float | None] = {
        "lines of its class": lines_of_code(Leaky),
        "lines elsewhere (its entry in TEMPORAL_HEADS)": 1,
        "difference between whole and chunks": difference,
        "accuracy on the task below, %": 100 * _accuracies(lambda: Stack([Leaky(8)], dropout=0.0))[_TRAINED_LENGTH],
    }
    return Table(
        "Extensible?", "A head that is not in the package, written against the contract of one.", {"leaky": row}
    )


def flexible() -> Table:
    """Trained on one length, used on others."""
    rows: dict[str, dict[str, float | None]] = {}
    for name in _VECTOR_HEADS:
        heads = (name, name) if name == "mingru" else (name,)  # one layer of it cannot compare two moments
        found = _accuracies(partial(build_temporal, 8, ModelConfig(heads=heads, hidden_channels=32, dropout=0.0)))
        shown = {f"{length} steps": 100 * accuracy for length, accuracy in found.items()}
        rows[f"{name} twice" if len(heads) > 1 else name] = dict(shown)
    note = (
        f"Which of two marks came first? Accuracy in %, half is chance; trained on {_TRAINED_LENGTH} steps in "
        f"{_TRAINING_STEPS} batches of 64, the same for all, then asked about other lengths."
    )
    return Table("Flexible?", note, rows)


def _marks(length: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise ``[count, length, 8]`` with two marks at different steps, and which of them came first."""
    x = 0.3 * torch.randn(count, length, 8, generator=generator)
    places = torch.rand(count, length, generator=generator).argsort(dim=1)[:, :2]
    for mark in range(2):
        x[torch.arange(count), places[:, mark], mark] += 2.0
    return x, (places[:, 0] > places[:, 1]).long()


def _accuracies(build: Callable[[], Stack]) -> dict[int, float]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    head = build()
    classifier = nn.Linear(head.num_outputs, 2)
    optimizer = torch.optim.Adam([*head.parameters(), *classifier.parameters()], lr=1e-2)
    for _ in range(_TRAINING_STEPS):
        x, labels = _marks(_TRAINED_LENGTH, 64, generator)
        loss = F.cross_entropy(classifier(head(x)[0][:, -1]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = {}
    for length in _LENGTHS:
        x, labels = _marks(length, 1000, generator)
        with torch.no_grad():
            found[length] = float((classifier(head(x)[0][:, -1]).argmax(dim=1) == labels).float().mean())
    return found


def parallel(rounds: int) -> Table:
    """What a step costs when there are many."""
    rows: dict[str, dict[str, float | None]] = {name: {} for name in _VECTOR_HEADS}
    for steps in _LONG:
        x = torch.randn(8, steps, 128)
        contestants = {name: _pass(name, x) for name in _VECTOR_HEADS}
        times = interleaved(contestants, rounds, "cpu")
        for name in _VECTOR_HEADS:
            rows[name][f"T = {steps}, ms"] = times.milliseconds(name)
        for name in _VECTOR_HEADS:
            rows[name][f"gru / this, T = {steps}"] = times.ratio("gru", name)
    note = (
        "Forward and backward, [8, T, 128] -> 128. The mean and the minimal GRU do all steps at once, the GRU cannot."
    )
    return Table("Parallel?", note, rows)


def over_length(table: Table) -> Lines:
    """The last table as a plot."""
    lines = {name: [row[f"T = {steps}, ms"] or 0.0 for steps in _LONG] for name, row in table.rows.items()}
    label = "ms, forward and backward"
    return Lines("compare_heads_length.png", "steps T", label, [float(steps) for steps in _LONG], lines)


def _pass(name: str, x: Tensor) -> Callable[[], object]:
    head = build_temporal(x.shape[2], ModelConfig(heads=(name,), hidden_channels=128, dropout=0.0))
    inputs = [x.clone().requires_grad_(), *head.parameters()]
    return lambda: torch.autograd.grad(head(inputs[0])[0].sum(), inputs)
