"""The Gymnasium environments, single and vector."""

import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path
from types import MappingProxyType, ModuleType

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from matplotlib.backends.backend_agg import FigureCanvasAgg
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.env_util import make_vec_env

import hadrl_lightning.envs as envs
from hadrl_lightning import register_environments
from hadrl_lightning.errors import MissingExtra
from hadrl_lightning.play import caching_reward, home_equal
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import decode_caching, decode_offloading, fill_caches

IDS = ("hadrl/ServiceCaching-v0", "hadrl/ComputationOffloading-v0", "hadrl/EdgeNetwork-v0")
SMALL = Scenario(num_users=4, decisions_per_episode=2, slots_per_decision=3, cache_bytes=40 * GIB)
STEPS = dict(zip(IDS, (2, 6, 6)))
SIZES = dict(zip(IDS, ((52, 20), (38, 12), (91, 32))))
INFO = {
    "hits",
    "hit_ratio",
    "latency",
    "on_time",
    "energy",
    "bandwidth_over_subscription",
    "compute_over_subscription",
    "switching",
}

WITH_MASKS = INFO | {f"_{name}" for name in INFO}

each = pytest.mark.parametrize("env_id", IDS)
both_physics = pytest.mark.parametrize("physics", ["strict", "published"])


def vector(env_id, num_envs, **settings):
    return gymnasium.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **settings)


def assert_nothing_happened(infos, num_envs):
    assert set(infos) == WITH_MASKS
    for name in INFO:
        assert infos[name].dtype == np.float32
        assert infos[name].tolist() == [0] * num_envs
        assert infos[f"_{name}"].tolist() == [True] * num_envs


@each
def test_gymnasium_finds_nothing_to_complain_about(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, scenario=SMALL).unwrapped)


@each
def test_published_physics_pass_gymnasiums_check(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", message=".*infinity. This is probably too.*"
        )  # request gain: unbounded
        env = gymnasium.make(env_id, scenario=SMALL, physics="published").unwrapped
        check_env(env, skip_render_check=True)


@each
def test_a_picture_is_of_the_slot_served_last(env_id):
    env = gymnasium.make(env_id, scenario=SMALL, render_mode="rgb_array")
    assert env.metadata["render_fps"] == 4
    with pytest.raises(RuntimeError, match=r"^render must follow reset"):
        env.unwrapped.render()
    env.reset(seed=0)
    before = env.render()
    assert (before.dtype, before.shape) == (np.uint8, (720, 1280, 3))
    assert np.array_equal(env.render(), before)
    env.step(env.action_space.sample())
    assert not np.array_equal(env.render(), before)


def test_without_a_display_a_line_says_what_to_do_and_the_episode_goes_on(capsys):
    env = gymnasium.make(IDS[1], scenario=SMALL, render_mode="human")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert env.render() is None
    env.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "hadrl: warning: render_mode human shows nothing without a display: use rgb_array, or hadrl show for a file"
    ]


def test_a_window_shows_every_slot_for_its_time(monkeypatch):
    shown = []
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "one")
    monkeypatch.setattr(FigureCanvasAgg, "start_event_loop", lambda canvas, time_s: shown.append(time_s))
    env = gymnasium.make(IDS[0], scenario=SMALL, render_mode="human")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    assert shown == [1 / 4] * 4  # the first one that comes, and the three of the frame


def test_gymnasiums_recorder_of_videos_gets_a_picture_a_step(monkeypatch, tmp_path):
    clips = []

    class Clip:
        def __init__(self, images, fps):
            clips.append((len(images), images[0].shape, fps))

        def write_videofile(self, path, logger):
            Path(path).touch()

    module = ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = Clip
    for name in ("moviepy", "moviepy.video", "moviepy.video.io", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    env = RecordVideo(gymnasium.make(IDS[2], scenario=SMALL, render_mode="rgb_array"), str(tmp_path / "here"))
    env.reset(seed=0)
    for _ in range(2):
        env.step(env.action_space.sample())
    env.close()
    assert clips == [(3, (720, 1280, 3), 4)]


@pytest.mark.unchecked
def test_a_render_mode_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"^render_mode must be human, rgb_array or None, got 'ansi'$"):
        envs.EdgeNetworkEnv(SMALL, render_mode="ansi")


@pytest.mark.parametrize("render_mode", ["human", "rgb_array"])
def test_drawing_without_matplotlib_names_its_extra(render_mode, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hadrl-lightning\[plots\]'$"):
        envs.EdgeNetworkEnv(SMALL, render_mode=render_mode)


@each
@both_physics
def test_stable_baselines_finds_nothing_to_complain_about(env_id, physics):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env_for_sb3(gymnasium.make(env_id, scenario=SMALL, physics=physics).unwrapped)


@each
@both_physics
def test_observations_and_actions_have_the_spaces_they_claim(env_id, physics):
    env = gymnasium.make(env_id, scenario=SMALL, physics=physics)
    assert (env.observation_space.shape, env.action_space.shape) == tuple((n,) for n in SIZES[env_id])
    assert env.observation_space.dtype == env.action_space.dtype == np.float32
    assert (env.action_space.low == -1).all()
    assert (env.action_space.high == 1).all()
    assert (env.observation_space.low < env.observation_space.high).all()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        assert env.observation_space.contains(observation)
        over = False
        while not over:
            # in turn as published: everybody at one server, everything cached; and anything
            action = np.sign(env.action_space.sample()) if env.action_space.sample()[0] > 0 else 1
            action = np.broadcast_to(np.float32(action), env.action_space.shape)
            observation, _, _, over, _ = env.step(action)
            assert env.observation_space.contains(observation)
        observation, _ = env.reset()


def test_only_the_published_request_gain_is_unbounded():
    strict = gymnasium.make(IDS[2], scenario=SMALL).observation_space
    assert np.isfinite(strict.low).all()
    assert np.isfinite(strict.high).all()
    published = gymnasium.make(IDS[0], scenario=SMALL, physics="published").observation_space
    assert np.flatnonzero(np.isinf(published.high)).tolist() == list(range(20, 30))


@each
def test_episodes_are_truncated_at_their_end(env_id):
    env = gymnasium.make(env_id, scenario=SMALL)
    env.reset(seed=1)
    for step in range(STEPS[env_id]):
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert isinstance(reward, float)
        assert not terminated
        assert truncated == (step == STEPS[env_id] - 1)
    with pytest.raises(RuntimeError, match="step must follow reset: the episode is over"):
        env.step(env.action_space.sample())


@each
def test_one_seed_gives_one_episode(env_id):
    def play(seed):
        env = gymnasium.make(env_id, scenario=SMALL)
        env.action_space.seed(5)
        rows = [env.reset(seed=seed)[0]]
        for _ in range(STEPS[env_id]):
            observation, reward, *_ = env.step(env.action_space.sample())
            rows.append(np.append(observation, reward))
        rows.append(env.reset()[0])  # the next episode too
        return np.concatenate(rows)

    assert np.array_equal(play(3), play(3))
    assert not np.array_equal(play(3), play(4))


@each
def test_episodes_after_the_first_differ(env_id):
    env = gymnasium.make(env_id, scenario=Scenario())
    action = np.zeros(env.action_space.shape, np.float32)
    env.reset(seed=1)
    first = env.step(action)[4]["latency"]
    env.reset()
    assert env.step(action)[4]["latency"] != first


@each
def test_one_network_equals_a_vector_of_one(env_id):
    one, many = gymnasium.make(env_id, scenario=SMALL), vector(env_id, 1, scenario=SMALL)
    assert np.array_equal(one.reset(seed=2)[0], many.reset(seed=2)[0][0])
    one.action_space.seed(0)
    for _ in range(STEPS[env_id]):
        action = one.action_space.sample()
        observation, reward, _, over, info = one.step(action)
        observations, rewards, _, overs, infos = many.step(action[None])
        assert np.array_equal(observation, observations[0])
        assert (reward, over) == (rewards[0], overs[0])
        assert {name: infos[name][0] for name in info} == info


def test_rewards_of_both_levels_sum_up_to_the_cost_with_what_fetching_costs() -> None:
    scenario = dataclasses.replace(SMALL, preferences={"switching_s": 0.5})
    env = gymnasium.make(IDS[2], scenario=scenario, reward="latency")
    env.reset(seed=0)
    env.action_space.seed(0)
    steps = [env.step(env.action_space.sample()) for _ in range(STEPS[IDS[2]])]
    latency, switching = (sum(info[name] for *_, info in steps) for name in ("latency", "switching"))
    assert switching > 0
    assert -sum(reward for _, reward, *_ in steps) * scenario.num_users == pytest.approx(
        latency + 0.5 * switching
    )


@each
def test_info_tells_what_a_step_was_like(env_id):
    env = gymnasium.make(env_id, scenario=SMALL)
    env.reset(seed=0)
    env.action_space.seed(0)
    frames = 0
    for step in range(STEPS[env_id]):
        info = env.step(env.action_space.sample())[4]
        assert all(type(value) is np.float32 for value in info.values())
        assert (info["switching"] > 0) == (env_id == IDS[0] or step % 3 == 0)
        frames += info["switching"] > 0
        assert info["hit_ratio"] == pytest.approx(info["hits"] / 4)
        assert 0 <= info["on_time"] <= 1
        assert info["energy"] > 0
        assert info["bandwidth_over_subscription"] == pytest.approx(0, abs=1e-6)
    assert frames == 2


@each
def test_a_reader_that_learns_the_names_from_the_first_info_finds_them_in_all(env_id):
    # What TorchRL's default_info_dict_reader does: names and types of the reset's info hold for every step.
    env = gymnasium.make(env_id, scenario=SMALL)
    _, info = env.reset(seed=0)
    kinds = {name: (value.dtype, value.shape) for name, value in info.items()}
    assert set(kinds) == INFO
    assert set(info.values()) == {0}
    for _ in range(STEPS[env_id]):
        info = env.step(env.action_space.sample())[4]
        assert {name: (value.dtype, value.shape) for name, value in info.items()} == kinds
        assert torch.as_tensor(info["latency"]).dtype == torch.float32


def test_published_physics_report_over_subscription():
    env = gymnasium.make(IDS[1], scenario=Scenario(), physics="published")
    env.reset(seed=0)
    info = env.step(np.zeros(90, np.float32))[4]  # 30 users at server 0 with the free 0.2: load 6 and 0
    assert info["bandwidth_over_subscription"] == pytest.approx(2.5, rel=1e-5)
    assert info["compute_over_subscription"] == pytest.approx(2.5, rel=1e-5)


def test_a_caching_step_is_a_frame_served_by_the_given_policy():
    seen = []

    def policy(network):
        seen.append(network.slot)
        return home_equal(network)

    env = gymnasium.make(IDS[0], scenario=SMALL, offloading_policy=policy)
    env.reset(seed=0)
    action = np.full(20, -1, np.float32)
    action[0] = 1  # service k = 1 at server 0: 2000 MiB at 200 MiB/s = 10 s
    observation, reward, _, _, info = env.step(action)
    assert seen == [0, 1, 2]
    assert info["switching"] == pytest.approx(10)
    assert observation[:20].tolist() == [1] + [0] * 19
    assert reward == pytest.approx(info["hits"] / 100 + 1 / 110)
    assert env.step(action)[4]["switching"] == 0
    assert seen == [0, 1, 2, 3, 4, 5]


def test_the_offloading_environment_fills_caches_by_the_given_policy():
    decisions = []

    def policy(network):
        decisions.append((network.decision, network.slot))
        return fill_caches(network.scenario, torch.ones(network.cache.shape))

    env = gymnasium.make(IDS[1], scenario=SMALL, caching_policy=policy)
    observation, _ = env.reset(seed=0)
    assert decisions == [(0, 0)]
    # 2000 + ... + 10000 MiB = 30000 of 32768: services 1-5 at both servers, before the first decision
    assert observation[:20].tolist() == ([1] * 5 + [0] * 5) * 2
    first = env.step(np.zeros(12, np.float32))[4]
    assert first["switching"] == pytest.approx(2 * 30000 / 200)
    for _ in range(5):
        last = env.step(np.zeros(12, np.float32))
    assert last[3]
    assert decisions == [(0, 0), (1, 3)]
    assert last[1] == pytest.approx(1e4 / last[4]["latency"])


def test_the_default_caches_follow_the_requests_so_far():
    env = gymnasium.make(IDS[1], scenario=Scenario(cache_bytes=30 * GIB), reward="latency")
    env.reset(seed=0)
    network = env.unwrapped.core.network
    assert network.cache[0].nonzero()[:, 1].tolist() == [0, 1, 2, 3] * 2  # nothing known: 20000 of 24576 MiB
    for _ in range(5):
        _, reward, _, _, info = env.step(np.zeros(90, np.float32))
        assert reward == pytest.approx(-info["latency"] / 30)
    counts = network.state.request_counts
    assert counts.sum() == 150
    assert torch.equal(network.cache, fill_caches(network.scenario, counts[:, None].expand(1, 2, 10)))
    assert network.cache[0, :, counts.argmax()].all()


def test_the_joint_environment_decides_caches_in_the_first_slot_of_a_frame_only():
    env = gymnasium.make(IDS[2], scenario=SMALL)
    observation, _ = env.reset(seed=0)
    assert observation[-1] == 0
    cores = env.unwrapped.core
    none, everything = -np.ones(32, np.float32), np.ones(32, np.float32)
    action = none.copy()
    action[[3, 12]] = 1  # service k = 4 at server 0, k = 3 at server 1
    hits = []
    for step, clock in enumerate([1 / 3, 2 / 3, 0]):
        observation, reward, _, _, info = env.step(action if step == 0 else everything)
        hits.append(info["hits"])
        assert observation[-1] == pytest.approx(clock)
        assert np.flatnonzero(observation[:20]).tolist() == [3, 12]
        assert np.array_equal(observation[52:72], observation[:20])
    slow = caching_reward(
        torch.tensor([np.mean(hits)]), torch.tensor([70.0])
    ).item()  # 14000 MiB at 200 MiB/s
    assert reward == pytest.approx(1e4 / info["latency"] + slow)
    observation = env.step(none)[0]
    assert not observation[:20].any()
    assert cores.network.decision == 2


def test_the_joint_environment_equals_the_simulator_played_by_hand():
    env = gymnasium.make(IDS[2], scenario=SMALL)
    env.reset(seed=6)
    network = envs.EdgeNetworkEnv(SMALL).core.network
    network.set_seed(6)
    network.reset()
    env.action_space.seed(0)
    for _ in range(6):
        action = env.action_space.sample()
        tensor = torch.as_tensor(action)[None]
        if network.frame_over:
            network.begin_frame(decode_caching(SMALL, tensor[:, :20], network.cache))
        service = network.step(decode_offloading(SMALL, tensor[:, 20:]))
        assert env.step(action)[4]["latency"] == service.latency.sum().item()


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused(env_id, bad):
    env = (
        envs.ServiceCachingEnv(SMALL)
        if env_id == IDS[0]
        else gymnasium.make(env_id, scenario=SMALL).unwrapped
    )
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    action[3] = bad
    with pytest.raises(ValueError, match="action must be finite, got 1 values that are not"):
        env.step(action)
    env.step(np.zeros(env.action_space.shape))  # float64 is taken, and nothing has moved


@each
def test_actions_of_a_wrong_shape_are_refused(env_id):
    env = gymnasium.make(env_id, scenario=SMALL).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must have shape"):
        env.step(np.zeros(7, np.float32))
    many = vector(env_id, 2, scenario=SMALL)
    many.reset(seed=0)
    with pytest.raises(ValueError, match=rf"action must have shape \[2, {SIZES[env_id][1]}\], got \[3, "):
        many.step(np.zeros((3, *env.action_space.shape), np.float32))


# Vectors -----------------------------------------------------------------------------------------------------------


@each
def test_a_vector_steps_all_networks_and_starts_anew_with_the_next_step(env_id):
    many = vector(env_id, 3, scenario=SMALL)
    assert many.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, infos = many.reset(seed=0)
    assert many.observation_space.contains(observations)
    assert_nothing_happened(infos, 3)
    assert not np.array_equal(observations[0], observations[1]) or env_id == IDS[0]
    many.action_space.seed(0)
    for step in range(STEPS[env_id]):
        observations, rewards, terminated, truncated, infos = many.step(many.action_space.sample())
        assert many.observation_space.contains(observations)
        assert len(set(rewards.tolist())) == 3
        assert not terminated.any()
        assert (truncated == (step == STEPS[env_id] - 1)).all()
        assert set(infos) == WITH_MASKS
        assert infos["latency"].shape == (3,)
    before = many.unwrapped.core.network.slot
    _, rewards, _, truncated, infos = many.step(
        many.action_space.sample()
    )  # the reset; its action is passed over
    assert before == 6
    assert many.unwrapped.core.network.slot == 0
    assert (rewards.tolist(), truncated.tolist()) == ([0, 0, 0], [False] * 3)
    assert_nothing_happened(infos, 3)
    many.step(many.action_space.sample())


@each
def test_same_step_autoreset_hands_out_the_last_observation_in_info(env_id):
    many = vector(env_id, 2, scenario=SMALL, autoreset_mode="SameStep")
    plain = vector(env_id, 2, scenario=SMALL)
    many.reset(seed=0)
    plain.reset(seed=0)
    action = np.zeros(many.action_space.shape, np.float32)
    for _ in range(STEPS[env_id]):
        observations, rewards, _, truncated, infos = many.step(action)
        expected, expected_rewards, *_ = plain.step(action)
        assert np.array_equal(rewards, expected_rewards)
    assert truncated.all()
    assert np.array_equal(infos["final_obs"], expected)
    assert set(infos["final_info"]) == WITH_MASKS
    assert (infos["final_info"]["latency"] > 0).all()
    assert_nothing_happened(
        {name: value for name, value in infos.items() if name.strip("_") not in ("final_obs", "final_info")},
        2,
    )
    assert np.array_equal(observations, plain.step(action)[0])


def test_without_autoreset_the_user_resets():
    many = vector(IDS[0], 2, scenario=SMALL, autoreset_mode=AutoresetMode.DISABLED)
    many.reset(seed=0)
    action = np.zeros(many.action_space.shape, np.float32)
    many.step(action)
    many.step(action)
    with pytest.raises(RuntimeError, match="step must follow reset"):
        many.step(action)
    with pytest.raises(ValueError, match="reset_mask must be true for all networks"):
        many.reset(options={"reset_mask": np.array([True, False])})
    many.reset(options={"reset_mask": np.array([True, True])})
    many.step(action)


@each
def test_gymnasiums_vector_wrappers_understand_the_info(env_id):
    many = DictInfoToList(RecordEpisodeStatistics(vector(env_id, 2, scenario=SMALL)))
    many.reset(seed=0)
    total = np.zeros(2)
    for _ in range(STEPS[env_id]):
        _, rewards, _, _, infos = many.step(np.zeros(many.action_space.shape, np.float32))
        total += rewards
    for row in range(2):
        assert infos[row]["episode"]["r"] == pytest.approx(total[row], rel=1e-5)
        assert infos[row]["episode"]["l"] == STEPS[env_id]
        assert infos[row]["hits"] == infos[row]["hit_ratio"] * 4


def test_gymnasiums_own_vectors_work_too():
    many = gymnasium.make_vec(IDS[1], num_envs=2, vectorization_mode="sync", scenario=SMALL)
    observations, _ = many.reset(seed=0)
    assert observations.shape == (2, 38)
    assert many.step(many.action_space.sample())[4]["latency"].shape == (2,)


# Registration and training -----------------------------------------------------------------------------------------


def test_the_name_of_the_package_before_the_id_is_enough():
    code = (
        "import gymnasium; env = gymnasium.make('hadrl_lightning:hadrl/ServiceCaching-v0', scenario='es2.yaml');"
        "print(env.observation_space.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(52,)", done.stderr


def test_importing_the_package_registers_the_environments():
    code = (
        "import gymnasium, hadrl_lightning;"
        "print(sorted(name for name in gymnasium.registry if name.startswith('hadrl/')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(sorted(IDS)), done.stderr


def test_registering_twice_changes_nothing():
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_environments()
    assert gymnasium.registry == before


def test_a_config_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"es9\.yaml"):
        envs.ServiceCachingEnv("es9.yaml")


FIELDS = {"num_users": 4, "num_services": 3, "popularity": [1, 2, 3], "cache_bytes": [4e10, 8e10]}


@each
def test_a_mapping_of_fields_is_a_scenario(env_id):
    for made in (
        gymnasium.make(env_id, scenario=FIELDS),
        vector(env_id, 2, scenario=MappingProxyType(FIELDS)),
    ):
        assert made.unwrapped.scenario == Scenario(**FIELDS)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"num_users": 0}, "num_users must be at least 1, got 0"),
        ({"num_clouds": 1}, "scenario has no field 'num_clouds'"),
        ({"popularity": [1, 2]}, "popularity must have one weight for each of num_services = 10, got 2"),
        ([3], r"scenario must be a Scenario, a mapping of its fields or the name of a config, got [3]"),
    ],
)
@pytest.mark.unchecked
def test_a_wrong_mapping_gets_the_line_that_a_config_gets(scenario, message):
    with pytest.raises(ValueError) as refusal:
        gymnasium.make(IDS[1], scenario=scenario)
    assert str(refusal.value) == message


@each
@pytest.mark.parametrize("scenario", [Scenario(**FIELDS), FIELDS, "es3.yaml", None])
def test_a_specification_goes_through_json(env_id, scenario):
    env = gymnasium.make(env_id, scenario=scenario, physics="published", reward="latency")
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.scenario == env.unwrapped.scenario
    assert again.unwrapped.core.physics == "published"
    assert np.array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])
    many = vector(env_id, 2, scenario=scenario)
    spec = EnvSpec.from_json(many.spec.to_json())
    assert gymnasium.make_vec(spec, 2).unwrapped.scenario == many.unwrapped.scenario


def test_stable_baselines_ppo_trains():
    many = make_vec_env(lambda: gymnasium.make(IDS[1], scenario=SMALL), n_envs=2, seed=0)
    model = PPO("MlpPolicy", many, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(384)
    assert model.num_timesteps == 384
    after = list(model.policy.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in after)
    assert any(not torch.equal(one, other) for one, other in zip(before, after))


@each
@pytest.mark.unchecked
@pytest.mark.parametrize("action", [{}, None, "left", [1e300], object(), [[1], [1, 2]], 1j])
def test_an_action_that_is_no_array_of_numbers_is_refused_in_one_line(env_id, action):
    env = gymnasium.make(env_id).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^action must") as refusal:
        env.step(action)
    assert "\n" not in str(refusal.value)
    vector = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode="vector_entry_point").unwrapped
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"^action must"):
        vector.step(action)


@both_physics
def test_observations_are_in_their_space_where_users_have_many_tasks(physics):
    processes = {"queues": {"load": None, "tasks_per_slot": 5.0}}
    scenario = dataclasses.replace(Scenario.from_config("es2.yaml"), processes=processes)
    env = gymnasium.make("hadrl/EdgeNetwork-v0", scenario=scenario, physics=physics)
    observation, _ = env.reset(seed=0)
    for _ in range(20):
        observation, *_ = env.step(np.ones(env.action_space.shape, np.float32))
        assert env.observation_space.contains(observation)
