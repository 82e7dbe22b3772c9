"""What the progress bar says at every moment."""

import io
import re
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from rich.console import Console

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks import CEMPlanning, EpisodeEvaluation, TrainingProgress, progress
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlWarning
from hadrl_lightning.judge import Scoreboard
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario

SCENARIO = Scenario(num_users=2, decisions_per_episode=2, slots_per_decision=1)


class Watch(Callback):
    """Notes what the bar shows at every hook that does something."""

    def __init__(self, bar: TrainingProgress) -> None:
        self.bar = bar
        self.seen: list[str] = []
        self.figures: set[str] = set()

    def look(self, trainer: Trainer, *_: Any) -> None:
        look = self.bar.look(trainer)
        if not self.seen or self.seen[-1] != look.doing:
            self.seen.append(look.doing)
        self.figures.add(re.sub(r"\d+(\.\d+)?", "N", look.figures))

    on_frame_end = on_train_batch_end = on_validation_batch_start = on_validation_batch_end = look
    on_test_batch_start = on_predict_batch_start = on_train_epoch_end = look


def watched(max_epochs: int = 2) -> tuple[Trainer, Watch, HADRL, TransitionDataModule]:
    planner = PlannerSettings(n_candidates=4, top_candidates=2, optimisation_iters=1)
    module = HADRL(SCENARIO, slow_level="flat", planner=planner)
    data = TransitionDataModule(
        SCENARIO, num_envs=1, passes_per_epoch=2, validation_episodes=3, test_episodes=3, parallel_episodes=2
    )
    bar = TrainingProgress()
    watch = Watch(bar)
    callbacks = [CEMPlanning(seed_decisions=1, decisions_per_epoch=2), EpisodeEvaluation(), bar, watch]
    wanted: dict[str, Any] = {
        "enable_progress_bar": True,
        "limit_val_batches": 1.0,
        "num_sanity_val_steps": 0,
    }
    trainer = quiet_trainer(max_epochs=max_epochs, accelerator="cpu", callbacks=callbacks, **wanted)
    return trainer, watch, module, data


def test_a_training_says_in_which_epoch_it_does_what() -> None:
    trainer, watch, module, data = watched()
    trainer.fit(module, datamodule=data)
    epoch = [
        "learning 1/2 steps",
        "learning 2/2 steps",
        "validating 0/3 episodes, slot 0/2",
        "validating 2/3 episodes",
        "validating 2/3 episodes, slot 0/2",
        "validating 3/3 episodes",
        "learning 2/2 steps",
    ]
    first, second = ([f"epoch {number}/2, {one}" for one in epoch] for number in (1, 2))
    collected = ["epoch 2/2, collecting 1/2 decisions", "epoch 2/2, collecting 2/2 decisions"]
    assert watch.seen == ["epoch 1/2, collecting 1/1 decisions", *first, *collected, *second]
    collecting, speed = "Σ latency N s, hits N (collecting)", "N slots/s (collecting)"
    validation = "Σ latency N s, hits N (validation)"
    assert watch.figures == {
        "",
        f"{collecting}, {speed}",
        f"{collecting}, {validation}, {speed}",
    }


def test_a_test_says_which_episodes_are_played_and_which_reference_plays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer, watch, module, data = watched()
    add = Scoreboard.add

    def added(self: Scoreboard, episode: Any) -> None:
        watch.look(trainer)
        add(self, episode)

    monkeypatch.setattr(Scoreboard, "add", added)
    with pytest.warns(HadrlWarning, match="the agent is untrained"):
        trainer.test(module, datamodule=data, verbose=False)
    references = [
        f"reference: {name}"
        for name in (
            "best known, same caches",
            "least known",
            "home, equal, same caches",
            "random, both levels",
        )
    ]
    assert watch.seen == [
        "testing 0/3 episodes, slot 0/2",
        "testing 0/3 episodes, slot 2/2",
        *references,
        "testing 2/3 episodes, slot 0/2",
        "testing 2/3 episodes, slot 2/2",
        *references,
    ]


def test_the_bar_is_drawn_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _, module, data = watched(max_epochs=1)
    trainer.fit(module, datamodule=data)
    assert capsys.readouterr().out == ""
    file = io.StringIO()
    monkeypatch.setattr(progress, "make_console", lambda: Console(file=file, force_terminal=True, width=80))
    trainer, _, module, data = watched(max_epochs=1)
    trainer.fit(module, datamodule=data)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "epoch 1/1, learning 2/2 steps" in text  # drawn for the last time as it ends
    assert "(validation)" in text
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]+", text))
