"""A trained policy as a function of arrays, with its actions in the environment's own units."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from dime.deploy.noise import drawn_noise
from dime.deploy.policy import Restored, numbered_action, restore_agents
from dime.envs.spaces import Spaces
from dime.training.host.programs import counters
from dime.types import AlgorithmState, Counters

SCALAR = jax.ShapeDtypeStruct((), np.uint32)


@dataclass(frozen=True)
class Action:
    """One seed's policy of a checkpoint in one mode."""

    restored: Restored
    run_dir: Path
    seed: int
    mode: str
    state: AlgorithmState
    at: Counters

    @classmethod
    def of(
        cls, run_dir: Path, mode: str | None, seed: int | None, checkpoint: Path | None
    ) -> "Action":
        """The policy of a run, chosen as `dime.load_policy` does; raises what that raises."""
        restored = restore_agents(run_dir, checkpoint)
        mode = restored.choose_mode(mode)
        place = restored.place_of(seed, run_dir)
        return cls(
            restored=restored,
            run_dir=run_dir,
            seed=restored.seeds[place],
            mode=mode,
            state=jax.tree.map(lambda leaf: leaf[place], restored.state),
            at=counters(restored.checkpoint.env_step, restored.checkpoint.run.updates),
        )

    @property
    def spaces(self) -> Spaces:
        """The observations it takes and the actions it gives."""
        return self.restored.spaces

    def observations(self, batch: Any) -> jax.ShapeDtypeStruct:
        """What it takes: `batch` may be a symbolic dimension."""
        return jax.ShapeDtypeStruct((batch, self.spaces.obs_dim), np.float32)

    def unit(self, state: AlgorithmState, obs: Any, seed: Any, call: Any) -> jax.Array:
        """Actions in [-1, 1], with the random numbers that `dime.load_policy` has in that call."""
        act = numbered_action(self.restored.agent, self.mode)
        return act(state, obs, jax.random.key(seed), call, self.at)

    def reference(self, obs: np.ndarray, seed: int, call: int) -> np.ndarray:
        """What a loaded policy answers to flat observations."""
        action = self._compiled(self.state, obs, np.uint32(seed), np.uint32(call))
        return self.spaces.to_env_action(np.asarray(action))

    def reference_noise(self, rows: int, seed: int, call: int) -> list[np.ndarray]:
        """What a loaded policy draws for so many observations, as an ONNX policy takes it."""
        draw = self._compiled_draws(rows)
        return [np.asarray(array) for array in draw(jax.random.key(seed), np.uint32(call))]

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.unit)

    @cached_property
    def _compiled_draws(self) -> Any:
        def draw(rows, key, call):
            obs = jnp.zeros((rows, self.spaces.obs_dim))  # no noise depends on it
            return drawn_noise(self.traced(rows), [obs, key, call])

        compiled = jax.jit(draw, static_argnums=0)
        return lambda rows: partial(compiled, rows)

    def used_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the state that the mode depends on, by their path in it."""
        leaves, structure = jax.tree.flatten(self.state)
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(self.state)]

        def act(leaves, obs, seed, call):
            return self.unit(jax.tree.unflatten(structure, leaves), obs, seed, call)

        traced = jax.make_jaxpr(act)(leaves, self.observations(1), SCALAR, SCALAR)
        _, used = dce_jaxpr(traced.jaxpr, [True])
        return {
            path: np.asarray(leaf)
            for path, leaf, needed in zip(paths, leaves, used, strict=False)
            if needed
        }

    def traced(self, batch: Any) -> ClosedJaxpr:
        """`(obs, key, call) -> action` in [-1, 1], without what the action does not need."""
        act = partial(numbered_action(self.restored.agent, self.mode), self.state)
        key = jax.eval_shape(lambda: jax.random.key(0))
        traced = jax.make_jaxpr(lambda obs, key, call: act(obs, key, call, self.at))(
            self.observations(batch), key, SCALAR
        )
        return ClosedJaxpr(dce_jaxpr(traced.jaxpr, [True], instantiate=True)[0], traced.consts)


def to_env_units(spaces: Spaces, action: jax.Array) -> jax.Array:
    """`spaces.to_env_action` in JAX, equal to it to the last bit.

    The product is cut off at the half range, which changes no action, so that no compiler can
    contract it with the sum into a single rounding.
    """
    middle, half_range = spaces.rescaling
    low, high = np.array(spaces.action_low), np.array(spaces.action_high)
    with jax.enable_x64(True):
        offset = jnp.clip(action.astype(np.float64) * half_range, -half_range, half_range)
        value = jnp.clip(offset + middle, low, high).astype(spaces.action_dtype)
        return value.reshape(action.shape[:-1] + spaces.action_shape)
