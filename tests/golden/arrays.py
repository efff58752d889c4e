"""Golden numbers of the authors' released code, read as our own objects.

Any `golden_*.npz` of this layout in the folder `DIME_GOLDEN_DIR` is tested; sizes come from the
file. "kernel" there is (in, out), as here.
"""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dime.critics.critics import CriticConfig
from dime.critics.heads import SoftBackup
from dime.networks.batch_renorm import BatchRenormMlp, RunningStats
from dime.policies.diffusion import DiffusionPolicy, DiffusionPolicyConfig
from dime.types import EnvSpec, Transition
from dime.updates.max_entropy import TemperatureConfig, max_entropy_policy_loss
from tests.joint_critics import combined_value, init_critics

FOLDER = Path(os.environ.get("DIME_GOLDEN_DIR", Path(__file__).parent))
FILES = sorted(FOLDER.glob("golden_*.npz"))
_CONTROL = "fwd_params/params/"
_CRITIC = "VmapCritic_0/"
_STATS = jax.tree.structure(RunningStats.start(1))


def assert_close(actual, expected, tolerance, what=""):
    """Within `tolerance`, absolute for small numbers and relative for large ones."""
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance, err_msg=what)


def assert_trees_close(actual, expected, tolerance):
    """The same for every leaf of two modules."""
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (path, leaf), reference in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert_close(leaf, reference, tolerance, jax.tree_util.keystr(path))


@dataclasses.dataclass
class Golden:
    """One file of golden numbers."""

    arrays: dict[str, np.ndarray]

    def __getitem__(self, name):
        return jnp.asarray(self.arrays[name])

    def size(self, name):
        return int(self.arrays[f"const/{name}"])

    def number(self, name):
        return float(self.arrays[f"const/{name}"])

    @property
    def spec(self):
        return EnvSpec(self.size("obs_dim"), self.size("act_dim"))

    @property
    def policy_config(self):
        return DiffusionPolicyConfig(
            num_denoising_steps=self.size("N"),
            prior_std=self.number("init_std"),
            hidden_dim=self.size("num_hid"),
            learning_rate=self.number("lr_actor"),
            adam_b1=self.number("adam_b1_actor_critic"),
            max_gradient=self.number("actor_grad_clip"),
        )

    @property
    def critic_config(self):
        return CriticConfig(
            v_min=self.number("v_min"),
            v_max=self.number("v_max"),
            num_atoms=self.size("n_atoms"),
            entropy_weight=self.number("entr_coeff"),
            hidden_dim=self.arrays[f"critic/{_CRITIC}Dense_0/kernel"].shape[-1],
            learning_rate=self.number("lr_critic"),
            adam_b1=self.number("adam_b1_actor_critic"),
            renorm_warmup_updates=self.size("bn_warmup"),
        )

    @property
    def temperature_config(self):
        per_dim = self.number("target_entropy") / self.size("act_dim")
        return TemperatureConfig(
            target_running_cost_per_dim=per_dim, learning_rate=self.number("lr_alpha")
        )

    def policy(self, prefix) -> DiffusionPolicy:
        """The policy's parameters (or gradients, or moments) under `prefix`."""

        def dense(name):
            return self[f"{prefix}{_CONTROL}{name}/kernel"], self[f"{prefix}{_CONTROL}{name}/bias"]

        template = DiffusionPolicy(self.policy_config, self.spec, jax.random.key(0))
        layers = [dense("time_coder_state/layers_0"), dense("time_coder_state/layers_2")]
        layers += [dense(f"state_time_net/layers_{i}/layers_0") for i in range(3)]
        layers += [dense("state_time_net/layers_3")]
        phase = self[f"{prefix}{_CONTROL}timestep_phase"][0]
        scales = [self[f"{prefix}dt"][0], self[f"{prefix}friction"]]
        leaves = [phase, *(leaf for layer in layers for leaf in layer), *scales]
        return self._fill(template, leaves)

    def critics(self, prefix) -> BatchRenormMlp:
        """The two critics' parameters (or gradients, or moments) under `prefix`."""
        names = [f"BatchRenorm_{i}/{leaf}" for i in range(3) for leaf in ("scale", "bias")]
        names += [f"Dense_{i}/{leaf}" for i in range(3) for leaf in ("kernel", "bias")]
        template, _ = init_critics(
            self.critic_config,
            self.critic_config.make_head().output_dim,
            self.spec,
            jax.random.key(0),
        )
        return self._fill(template, [self[f"{prefix}{_CRITIC}{name}"] for name in names])

    def critic_stats(self, prefix):
        """The running statistics under `prefix`."""

        def stats(index):
            layer = f"{prefix}{_CRITIC}BatchRenorm_{index}/"
            leaves = (self[layer + name] for name in ("mean", "var", "steps"))
            # Stacked for two critics: the constructor would check one critic's shapes.
            return jax.tree.unflatten(_STATS, leaves)

        return tuple(stats(i) for i in range(3))

    @staticmethod
    def _fill(template, leaves):
        shapes = [leaf.shape for leaf in jax.tree.leaves(template)]
        assert shapes == [leaf.shape for leaf in leaves]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)


def transition_of(golden):
    return Transition(
        golden["obs"], golden["act"], golden["rew"], golden["next_obs"], golden["done"] > 0
    )


def backup_of(golden):
    log_prob = golden["next/run_cost"] + golden["next/terminal_cost"]
    return SoftBackup(
        reward=golden["rew"],
        discount=golden.number("gamma") * (1.0 - golden["done"]),
        entropy_cost=jnp.exp(golden["log_ent_coef"]) * log_prob,
    )


def policy_loss(policy, golden):
    sample = policy.weigh(policy.chain(golden["obs"], golden["pi/chain"][0], golden["pi/eps"]))
    stats = golden.critic_stats("warm/bn_before/")
    head = golden.critic_config.make_head()
    value = combined_value(golden.critics("critic/"), stats, golden["obs"], sample.action, head)
    return max_entropy_policy_loss(sample.log_prob, value, jnp.exp(golden["log_ent_coef"]))
