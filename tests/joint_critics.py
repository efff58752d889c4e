"""The joint critics' pieces by themselves, for tests that compute with parameters of their own."""

import optax

from dime.critics.critics import Critics, CriticState, critic_outputs
from dime.critics.critics import joint_outputs as joint_outputs_of
from dime.critics.heads import QuantileHead
from dime.types import Transition


def init_critics(config, output_dim, spec, key):
    made = config.make(spec, QuantileHead(output_dim)).start(key)
    return made.online, made.stats


def joint_outputs(critics, stats, pairs, next_pairs):
    empty = pairs[:, :0]
    transition = Transition(pairs, empty, pairs[:, 0], next_pairs, pairs[:, 0] > 0.0)
    return joint_outputs_of(critics, stats, transition, empty)


def evaluate_critics(critics, stats, pairs):
    return critic_outputs(critics, pairs, pairs[..., :0], stats)


def combined_value(critics, stats, obs, action, head):
    return head.combined_value(critic_outputs(critics, obs, action, stats))


def joint_critic_loss(critics, stats, transition, next_action, backup, head):
    made = Critics(lambda key: None, 2, head, optax.identity())
    state = CriticState(critics, None, stats)
    loss, (stats, metrics) = made.loss(critics, state, transition, next_action, backup)
    return loss, (stats, metrics | {"critic_loss": loss})
