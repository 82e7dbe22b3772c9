"""What `hadrl COMMAND --help` says: first what matters, then all settings; ours where Lightning's text is not true."""

import re
from typing import Any, NamedTuple

from hadrl_lightning.units import with_unit


class Opening(NamedTuple):
    """How the help of a command begins."""

    does: str
    """What the command does."""
    examples: tuple[str, ...]
    """Command lines."""
    settings: tuple[str, ...]
    """Dotted names of the settings that matter most."""


SETTINGS = {
    "config": ("NAME", "a file, or a shipped one by name; give several, the later ones win"),
    "ckpt_path": ("PATH", "a checkpoint, or last or best of the newest run; not given: a new agent"),
    "weights": ("PATH", "begin with what an agent has learnt, in another scenario if you like"),
    "data.scenario.num_servers": ("N", "edge servers"),
    "data.scenario.num_users": ("N", "mobile users"),
    "data.scenario.num_services": ("N", "services"),
    "data.scenario.cache_bytes": ("X", "cache of a server"),
    "data.scenario.compute_hz": ("X", "CPU cycles per second of a server"),
    "data.scenario.bandwidth_hz": ("X", "uplink bandwidth of a server"),
    "data.physics": ("NAME", "strict obeys capacity, published repeats the published arithmetic"),
    "data.seed": ("N", "seed of everything that training draws"),
    "data.num_envs": ("N", "networks that collect in parallel"),
    "data.validation_episodes": ("N", "episodes of a validation"),
    "data.test_episodes": ("N", "episodes of a test"),
    "data.predict_episodes": ("N", "episodes whose decisions are written"),
    "evaluation.references": ("BOOL", "whether others are shown on the same episodes"),
    "evaluation.output_dir": (
        "DIR",
        "where the decisions go, over those there; not given: a folder beside the agent",
    ),
    "trainer.max_epochs": ("N", "epochs; each collects caching decisions, then learns"),
    "trainer.devices": ("N", "devices; more than one: see trainer.strategy"),
    "trainer.precision": ("NAME", "32-true, or bf16-mixed"),
    "trainer.threads": ("N", "threads on the CPU; one is best for fewer than hundreds of users"),
    "trainer.default_root_dir": ("DIR", "below it lies checkpoints/; not given: the working folder"),
}
"""Placeholder and meaning of the settings that openings show."""
SCENARIO = tuple(name for name in SETTINGS if name.startswith("data.scenario."))

OPENINGS = {
    "fit": Opening(
        "Train an agent on simulated episodes, keep best.ckpt and last.ckpt, and judge the best one on\n"
        "episodes that it has not seen. Everything goes to checkpoints/CONFIGS/version_N/.",
        (
            "hadrl fit --config es2.yaml",
            "hadrl fit --config es3.yaml --config tight.yaml --data.scenario.num_users 60",
            "hadrl fit --config es2.yaml --data.scenario.cache_bytes 40GiB --trainer.max_epochs 24",
            "hadrl fit --config es2.yaml --ckpt_path last",
        ),
        (
            "config",
            "ckpt_path",
            "weights",
            *SCENARIO,
            *("data.physics", "data.seed", "data.num_envs"),
            *("trainer.max_epochs", "trainer.devices", "trainer.precision", "trainer.threads"),
            "trainer.default_root_dir",
        ),
    ),
    "validate": Opening(
        "Play the validation's episodes without exploration and show the scores.",
        ("hadrl validate --ckpt_path best", "hadrl validate --config es2.yaml --ckpt_path last"),
        ("config", "ckpt_path", *SCENARIO, "data.validation_episodes", "trainer.default_root_dir"),
    ),
    "test": Opening(
        "Play the test's episodes without exploration and show the scores beside others on the same episodes.",
        ("hadrl test --ckpt_path es2.ckpt", "hadrl test --ckpt_path best --data.scenario.num_users 60"),
        (
            *("config", "ckpt_path", *SCENARIO),
            *("data.test_episodes", "evaluation.references", "trainer.default_root_dir"),
        ),
    ),
    "predict": Opening(
        "Play episodes without exploration and write every decision and what it led to, into predict-NAME/ beside the\n"
        "checkpoint: decisions.csv, caches.csv, switching.csv, and columns.md, which explains them.",
        (
            "hadrl predict --ckpt_path best",
            "hadrl predict --ckpt_path es2.ckpt --evaluation.output_dir decisions",
        ),
        (
            *("config", "ckpt_path", *SCENARIO),
            *("data.predict_episodes", "evaluation.output_dir", "trainer.default_root_dir"),
        ),
    ),
}

_RESUMES = (
    "Go on with a training as if it had not been interrupted: a checkpoint, or last or best, that of the "
    "newest run of the same configs, of all runs without --config. The run's own settings hold beneath the flags. "
    "To begin with what an agent has learnt, see weights."
)
_JUDGED = (
    "The agent: a checkpoint, the name of a shipped agent such as es2.ckpt, or last or best, that of the "
    "newest run of the same configs, of all runs without --config. Its own settings hold beneath the flags, and "
    "those of --config where these are not the configs of its run. Not given: an agent that has learnt nothing."
)
OURS = {
    "seed_everything": (
        "Seed of the global generators of Python, NumPy and torch. What a training draws depends on "
        "data.seed."
    ),
    "verbose": "Print Lightning's list of the results too.",
    "weights_only": "Checkpoints have to hold tensors and plain values alone, whatever is set here.",
    "return_predictions": "Without effect on the command line: the decisions go to files.",
    "trainer.strategy": (
        "auto: one device. ensemble_parallel: each device holds some members of the ensemble, and all act as "
        "one. ddp_find_unused_parameters_true: each device collects and learns for all."
    ),
    "trainer.precision": "32-true, or mixed: bf16-mixed, 16-mixed. Others are refused.",
    "trainer.logger": (
        "Not given: TensorBoard's events and metrics.csv. Yours, one or a list: these and metrics.csv. false:"
        " none. Settings, checkpoints and results lie in the run's folder in any case."
    ),
    "trainer.callbacks": (
        "Callbacks of yours, beside ours; a progress bar among them replaces ours. Stochastic weight "
        "averaging and schedulers of gradient accumulation are refused."
    ),
    "trainer.enable_checkpointing": "false: no last.ckpt and best.ckpt.",
    "trainer.enable_progress_bar": "false: no progress bar. There is one on a terminal alone.",
    "trainer.enable_model_summary": "true: list the layers before training.",
    "trainer.max_epochs": (
        "Epochs of training; each collects caching decisions, then learns. Those before a resumption count."
    ),
    "trainer.max_steps": "Steps of all optimizers together at most; -1: no limit but max_epochs.",
    "trainer.check_val_every_n_epoch": (
        "A validation every so many epochs; the best one is kept as best.ckpt."
    ),
    "trainer.num_sanity_val_steps": "Batches of validation episodes played for trial before training.",
    "trainer.log_every_n_steps": (
        "Steps from one row of metrics.csv to the next; figures of an epoch come at its end."
    ),
    "trainer.default_root_dir": (
        "Below it lies checkpoints/CONFIGS/version_N/; not given: the working folder."
    ),
    "trainer.use_distributed_sampler": (
        "Without effect: there is no set of data to share out, every device collects."
    ),
    "trainer.reload_dataloaders_every_n_epochs": (
        "Leave it at 0: the streams draw anew in every epoch anyway."
    ),
    "trainer.gradient_clip_val": (
        "Refused: the world model clips its gradient itself, see its grad_clip_norm."
    ),
    "trainer.gradient_clip_algorithm": (
        "Refused: the world model clips its gradient by the norm, see its grad_clip_norm."
    ),
    "trainer.accumulate_grad_batches": (
        "Must be 1: data.batch_size and data.caching_batch_size say what an update learns from."
    ),
}
"""In place of Lightning's text, by the setting's dotted name."""
TITLES = {
    "trainer": "Lightning's Trainer",
    "ckpt_path": "the agent",
    "return_predictions": "the agent",
}
"""Titles of the groups that begin with these settings."""


def use_our_texts(parser: Any, command: str) -> None:
    """Put what is true here in place of Lightning's texts: those of OURS, and defaults that ours are not."""
    for action in parser._actions:
        if action.dest == "ckpt_path":
            action.help = _RESUMES if command == "fit" else _JUDGED
        elif action.dest in OURS:
            action.help = OURS[action.dest]
        elif action.dest.startswith("trainer.") and isinstance(action.help, str):
            action.help = _tidy(action.help)
    for group in parser._action_groups:
        first = group._group_actions[0].dest if group._group_actions else ""
        group.title = TITLES.get(first, group.title)


def _tidy(text: str) -> str:
    """A text of Lightning's without its own default, beside which ours is shown, and without markup of its pages."""
    text = re.sub(r"\s*(?:Defaults?(?: to)?:? ``[^`]*``|Default: [\w.]+)\.?(?=\s|$)", "", text)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return text.replace("``", "").strip()


def opening(parser: Any, command: str) -> str:
    """The first lines of the help of a command: usage, what it does, what matters with its default, examples."""
    about = OPENINGS[command]
    defaults = parser.get_defaults()
    lines = [
        f"usage: hadrl {command} [--config NAME] … [--KEY VALUE] …",
        "",
        about.does,
        "",
        "examples:",
        *(f"  {example}" for example in about.examples),
        "",
        "what matters most, and its default:",
    ]
    for name in about.settings:
        value, meaning = SETTINGS[name]
        flag = f"  --{name} {value}"
        default = None if name == "config" else defaults.get(name)
        shown = "" if default is None else f" ({with_unit(name, default)})"
        lines.append(f"{flag:36} {meaning}{shown}")
    lines += [
        "",
        "Numbers may have a unit: 20GiB, 60GHz, 30ms. --print_config shows what results; every setting follows.",
    ]
    return "\n".join(lines) + "\n\n"
