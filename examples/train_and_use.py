"""Trains DIME, then uses the results: the policy as an object, evaluations, records.

    python examples/train_and_use.py [ENV_STEPS]

Tiny networks and a few hundred steps, so that it takes seconds; hardly anything is learnt. For a
real run use the preset's own settings: leave out what follows `preset="laptop"`.
"""

import json
import sys

import numpy as np

import dime

ENV = "dime/MultiGoal-v0"
ENV_STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 150

result = dime.train(
    ENV,
    preset="laptop",
    num_env_steps=ENV_STEPS,
    num_random_steps=100,
    log_every=50,
    policy={"num_denoising_steps": 4, "hidden_dim": 16, "num_hidden_layers": 1},
    critic={"hidden_dim": 32, "num_hidden_layers": 1},
    progress=False,
)
print(f"{result.state} after {result.env_step} env steps, in {result.run_dir}")

# The training metrics, one JSON object per line.
for line in (result.run_dir / "metrics.jsonl").read_text().splitlines():
    record = json.loads(line)
    if "entropy_bound_per_dim" in record:  # absent before the first update
        print("entropy bound, nats per action dimension:", record["entropy_bound_per_dim"])

# The trained policy, in the environment's own units, for one observation ...
policy = dime.load_policy(result.run_dir, mode="stochastic")
env = dime.make_env(ENV)
obs, info = env.reset(seed=7)
episode_return, ended = 0.0, False
while not ended:
    obs, reward, terminated, truncated, info = env.step(policy(obs))
    episode_return += float(reward)
    ended = terminated or truncated
print(f"one episode: return {episode_return:.1f}, goal reached: {info['success']}")

# ... or for a batch: five actions at one position, which may point to different goals.
print("five actions at the origin:", policy(np.zeros((5, 2), np.float32)), sep="\n")

for mode in ("deterministic", "best_of_n"):
    (record,) = dime.evaluate(result.run_dir, mode=mode)  # a record per seed
    print(f"{mode:13} mean return {np.mean(record['returns']):.1f}")
