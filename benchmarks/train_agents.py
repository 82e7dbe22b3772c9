"""Train agents and store their weights alone, with a README that says how each came about and what it scores.

python benchmarks/train_agents.py                            # the shipped ones, into checkpoints/
python benchmarks/train_agents.py --scenarios es2.yaml --seeds 0 1 2 3 4 --output agents
"""

import argparse
import csv
import hashlib
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from hadrl_lightning import HADRL, __version__

SCENARIOS = ["es2.yaml", "es3.yaml", "es4.yaml", "es5.yaml"]
SCORES = {"test/hit_ratio": "{:.3f}", "test/latency": "{:.2f}", "test/on_time": "{:.3f}"}
HEAD = """# Trained agents

Weights alone: what `hadrl fit` found best by validation (`best.ckpt`), without optimizers, replay, simulator. Each is
used by its name from any directory, with the settings of the scenario that it was trained in:

```
hadrl test --config {example}.yaml --ckpt_path {example}.ckpt
```

They load with `torch.load(…, weights_only=True)`; `HADRL.from_checkpoint("{example}.ckpt")` makes the agent, and
refuses a file that is not what was written. `hadrl inspect {example}.ckpt` shows what it was made by, its scenario, and
the ranges of numbers that its training saw: used outside of them, an agent says so. Made with hadrl-lightning {hadrl},
torch {torch} and lightning {lightning} by

```
{command}
```

Scores are of {episodes} test episodes, whose seed differs from those of training and validation.

| file | trained by | hit ratio | Σ latency (s) | deadlines met | bytes | sha256 |
|---|---|---|---|---|---|---|
"""


def trained(scenario: str, seed: int, overrides: list[str]) -> tuple[HADRL, dict[str, str]]:
    """The best agent of a training, and its test scores."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", "--config", scenario, "--data.seed", str(seed), *overrides]
        command = [sys.executable, "-m", "hadrl_lightning.cli", *words]
        subprocess.run(command, check=True, cwd=folder)
        (run,) = Path(folder).glob("checkpoints/*/version_0")
        with (run / "metrics.csv").open(newline="") as file:
            scores = [row for row in csv.DictReader(file) if row.get("test/latency")][-1]
        return HADRL.from_checkpoint(run / "best.ckpt"), scores


def main() -> None:
    """Train, store, describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, help="settings files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
    parser.add_argument("--output", type=Path, default=Path("checkpoints"), help="folder of the agents")
    options, overrides = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for scenario in options.scenarios:
        for seed in options.seeds:
            agent, scores = trained(scenario, seed, overrides)
            stem = Path(scenario).stem + (f"-{seed}" if len(options.seeds) > 1 else "")
            file = options.output / f"{stem}.ckpt"
            agent.save_weights(file, {name: float(scores[name]) for name in SCORES})
            contents = file.read_bytes()
            fit = " ".join(["hadrl fit --config", scenario, "--data.seed", str(seed), *overrides])
            cells = [form.format(float(scores[name])) for name, form in SCORES.items()]
            digest = hashlib.sha256(contents).hexdigest()
            rows.append(" | ".join([f"| {file.name} | `{fit}`", *cells, f"{len(contents)}", f"`{digest}` |"]))
    head = HEAD.format(
        example=Path(options.scenarios[0]).stem,
        hadrl=__version__,
        torch=version("torch"),
        lightning=version("lightning"),
        episodes=agent.origin["data"]["test_episodes"],
        command=" ".join(["python benchmarks/train_agents.py", *sys.argv[1:]]),
    )
    (options.output / "README.md").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
