"""Makes the environments known to Gymnasium, by names so that nothing is imported before it is made."""

import gymnasium

ENVIRONMENTS = ("ServiceCaching", "ComputationOffloading", "EdgeNetwork")
"""`hadrl/NAME-v0` is the class `NAMEEnv`, and `NAMEVectorEnv` where a vector of them is asked for."""


def register_environments() -> None:
    """Register the environments with Gymnasium; importing `hadrl_lightning` does it."""
    for name in ENVIRONMENTS:
        env_id = f"hadrl/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point=f"hadrl_lightning.envs:{name}Env",
                vector_entry_point=f"hadrl_lightning.envs:{name}VectorEnv",
            )
