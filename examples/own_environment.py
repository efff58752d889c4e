"""Trains on an environment of your own: a cart on a track that has to stop at the origin.

A run makes several environments (for training, for evaluations), so it takes a function that
returns a new one at each call; a class is such a function. See docs/environments.md.
"""

import gymnasium
import numpy as np

import dime


class Cart(gymnasium.Env):
    """Position (m) and velocity (m/s); the action is a force of at most 2 N."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    max_episode_steps = 50

    def reset(self, *, seed=None, options=None):
        """Puts the cart within 1 m of the origin, at rest."""
        super().reset(seed=seed)  # seeds self.np_random, the only source of randomness
        self.state, self.steps = np.array([self.np_random.uniform(-1, 1), 0.0]), 0
        return self.state.astype(np.float32), {}

    def step(self, action):
        """Pushes the cart for 0.1 s; the cost is quadratic in position and velocity."""
        position, velocity = self.state
        velocity = velocity + 0.1 * float(action[0])
        self.state = np.array([position + 0.1 * velocity, velocity])
        self.steps += 1
        lost = abs(self.state[0]) > 3.0  # terminated: no bootstrapping beyond the end of the track
        reward = -10.0 if lost else -float(self.state[0] ** 2 + 0.1 * velocity**2)
        late = self.steps == self.max_episode_steps  # truncated: bootstraps from this state
        return self.state.astype(np.float32), reward, bool(lost), late and not lost, {}


def report(record):
    """Receives every record; a true return value would save and stop the run."""
    if "returns" in record:
        print(f"env step {record['env_step']}: {record['mode']} return {record['returns'][0]:.1f}")


result = dime.train(
    Cart,
    preset="laptop",
    num_env_steps=150,
    num_random_steps=100,
    num_evaluation_episodes=1,
    policy={"num_denoising_steps": 4, "hidden_dim": 16, "num_hidden_layers": 1},
    # The range of returns of the critic. Without it, train() raises an error that suggests one.
    critic={"v_min": -100.0, "v_max": 100.0, "hidden_dim": 32, "num_hidden_layers": 1},
    callback=report,
    progress=False,
)
# A file cannot store a Python class, so pass it again to whatever reads the run.
(record,) = dime.evaluate(result.run_dir, mode="deterministic", env=Cart)
print("returns:", record["returns"])
print("force at 1 m, at rest:", dime.load_policy(result.run_dir)(np.float32([1.0, 0.0])))
