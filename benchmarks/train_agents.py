"""Train the agent that ships, store its weights alone, with a README that says how it came about and what it scores.

python benchmarks/train_agents.py                                  # into checkpoints/hadrl.ckpt
python benchmarks/train_agents.py --seeds 0 1 2 --output agents    # one of each seed, agents/hadrl-{seed}.ckpt
python benchmarks/train_agents.py --run checkpoints/any/version_0 --seeds 0    # of a training that was made already
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from hadrl_lightning import HADRL, __version__

CONFIG = "any.yaml"
SCENARIOS = ["es2.yaml", "es3.yaml", "es4.yaml", "es5.yaml"]
HEAD = """# The trained agent

`hadrl.ckpt` is trained over networks of every kind ([`any.yaml`](../configs/any.yaml)), for use on networks that it has
not met. It is what `hadrl validate`, `test` and `predict` use where no checkpoint is named:

```
hadrl test --config campus.yaml
```

`es2.ckpt` … `es5.ckpt` are names of it too, each for the agent in the scenario of that name
(`hadrl test --ckpt_path es2.ckpt`). The file holds weights alone: what `hadrl fit` found best by validation, without
optimizers, replay, simulator. It loads with `torch.load(…, weights_only=True)`; `HADRL.from_checkpoint("hadrl.ckpt")`
makes the agent, and refuses a file that is not what was written. `hadrl inspect hadrl.ckpt` shows what it was made by
and the ranges of numbers that its training saw: used outside of them, it says so. Made with hadrl-lightning {hadrl},
torch {torch} and lightning {lightning} by

```
{command}
```

Latencies are summed over the users of a slot, in seconds, mean over {episodes} test episodes of scenarios that it was
not trained on.

| file | trained by | {scenarios} | bytes | sha256 |
|---|---|{lines}---|---|
"""


def trained(seed: int, overrides: list[str], folder: Path) -> Path:
    """The run of a training."""
    words = ["fit", "--config", CONFIG, "--data.seed", str(seed), *overrides]
    subprocess.run([sys.executable, "-m", "hadrl_lightning.cli", *words], check=True, cwd=folder)
    (run,) = folder.glob("checkpoints/*/version_0")
    return run


def tested(file: Path, scenario: str) -> dict[str, float]:
    """The scores of an agent in a scenario that it was not trained on."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "agent.ckpt"
        copy.write_bytes(file.read_bytes())
        words = ["test", "--config", scenario, "--ckpt_path", str(copy), "--evaluation.references", "false"]
        subprocess.run([sys.executable, "-m", "hadrl_lightning.cli", *words], check=True, cwd=folder)
        (table,) = Path(folder).glob("test-*.csv")
        with table.open(newline="") as rows:
            (row,) = csv.DictReader(rows)
        return {name: float(row[f"test/{name}"]) for name in ("hit_ratio", "latency", "on_time")}


def main() -> None:
    """Train, store, describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
    parser.add_argument("--output", type=Path, default=Path("checkpoints"), help="folder of the agents")
    parser.add_argument("--run", type=Path, help="a training that was made already")
    options, overrides = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = options.run or trained(seed, overrides, Path(folder))
            agent = HADRL.from_checkpoint(run / "best.ckpt")
        file = options.output / ("hadrl.ckpt" if len(options.seeds) == 1 else f"hadrl-{seed}.ckpt")
        agent.save_weights(file, {})
        scores = [tested(file, scenario) for scenario in SCENARIOS]
        found = {
            f"{Path(scenario).stem}/{name}": value
            for scenario, one in zip(SCENARIOS, scores)
            for name, value in one.items()
        }
        agent.save_weights(file, found)
        contents = file.read_bytes()
        fit = " ".join(["hadrl fit --config", CONFIG, "--data.seed", str(seed), *overrides])
        cells = [f"{one['latency']:.2f}" for one in scores]
        digest = hashlib.sha256(contents).hexdigest()
        rows.append(" | ".join([f"| {file.name} | `{fit}`", *cells, f"{len(contents)}", f"`{digest}` |"]))
    head = HEAD.format(
        hadrl=__version__,
        torch=version("torch"),
        lightning=version("lightning"),
        episodes=100,
        command=" ".join(["python benchmarks/train_agents.py", *map(os.path.basename, sys.argv[1:])]),
        scenarios=" | ".join(Path(scenario).stem.upper() for scenario in SCENARIOS),
        lines="---|" * len(SCENARIOS),
    )
    (options.output / "README.md").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
