"""Stands in for model and data, so that the command line can be tried as a shell in a fraction of a second."""

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn

from hadrl_lightning import cli
from hadrl_lightning.agent_files import find_agent, stored_file
from hadrl_lightning.cli import app
from hadrl_lightning.cli.checkpointing import Checkpointing
from hadrl_lightning.errors import HadrlError


@dataclass(frozen=True, kw_only=True)
class TinyScenario:
    """Stands in for a scenario."""

    num_users: int = 3
    """Number of users."""

    bandwidth_hz: float | list[float] = 200e6
    """Bandwidth (Hz)."""

    def __post_init__(self) -> None:
        if self.num_users < 1:
            raise ValueError(f"num_users must be at least 1, got {self.num_users}")


@dataclass(frozen=True, kw_only=True)
class TinySettings:
    """Stands in for settings of the model."""

    width: int = 4
    """Width."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


class TinyModel(LightningModule):
    """Learns a line; draws noise from a generator of its own, which its checkpoints hold."""

    def __init__(
        self,
        scenario: TinyScenario,
        physics: Literal["strict", "published"] = "strict",
        net: TinySettings = TinySettings(),
        bug: bool = False,
    ) -> None:
        super().__init__()
        if bug:
            raise ValueError("tensors disagree")
        self.scenario, self.physics = scenario, physics
        generator = torch.Generator().manual_seed(1)
        self.net = nn.Sequential(nn.Linear(scenario.num_users, net.width), nn.Linear(net.width, 1))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
        self.generator = generator

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self.net(batch) + torch.randn(1, generator=self.generator)).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/latency", self.net(batch).square().mean())

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("test/latency", self.net(batch).square().mean())

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.net(batch)

    def load_weights(self, path: str) -> None:
        found = torch.load(stored_file(find_agent(path)), weights_only=True)["state_dict"]
        try:
            self.load_state_dict(found)
        except RuntimeError as error:
            raise HadrlError(f"weights must fit, got {path}") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        settings = {"scenario": asdict(self.scenario), "physics": self.physics}
        checkpoint["hyper_parameters"] = settings
        checkpoint["noise"] = self.generator.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.generator.set_state(checkpoint["noise"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Batches:
    """Two batches."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([torch.ones(2, self.size), torch.full((2, self.size), 2.0)])


class TinyData(LightningDataModule):
    """Two batches of ones."""

    def __init__(
        self,
        scenario: TinyScenario = TinyScenario(),
        physics: Literal["strict", "published"] = "strict",
        num_envs: int = 2,
    ) -> None:
        super().__init__()
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.scenario = scenario

    def train_dataloader(self) -> "Batches":
        return Batches(self.scenario.num_users)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Planning(Callback):
    """Stands in for a callback with settings."""

    def __init__(self, decisions_per_epoch: int = 5) -> None:
        if decisions_per_epoch < 1:
            raise ValueError(f"decisions_per_epoch must be at least 1, got {decisions_per_epoch}")
        self.decisions_per_epoch = decisions_per_epoch


CALLBACKS = {"planning": Planning, "checkpointing": Checkpointing}
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
QUIET += ["--trainer.num_sanity_val_steps=0", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=4"]


@pytest.fixture
def stand_in(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hadrl` of the stand-ins."""
    monkeypatch.setattr(
        app, "run", lambda args: app.HadrlCLI(TinyModel, TinyData, callbacks=CALLBACKS, args=args)
    )
    Path("tiny.yaml").write_text("data: {scenario: {num_users: 2}}\n")
    Path("wide.yaml").write_text("model: {net: {width: 6}}\n")


def hadrl(command: str, *words: str) -> int:
    return cli.main([command, *QUIET, *words])


def fit(*words: str) -> None:
    assert hadrl("fit", "--config", "tiny.yaml", *words) == 0


_FILES: dict[str, bytes] = {}


def trained() -> None:
    """What `fit()` leaves behind, without waiting for it again."""
    if not _FILES:
        fit()
        _FILES.update(files("checkpoints"))
    for name, content in _FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)


def files(folder: str = ".") -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def rows(path: str) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line by which the command line refuses `words`, having changed no file."""
    before = files()
    capfd.readouterr()
    assert hadrl(*words) == 2
    assert files() == before
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("hadrl: error: ")
    assert not captured.out
    return lines[0].removeprefix("hadrl: error: ")
