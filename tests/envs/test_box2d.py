"""Box2D's walkers keep a world over their episodes; here each episode has its own."""

import numpy as np

from dime.envs import make
from dime.envs.gymnasium_suite import NewWorld
from tests.envs.stub import Stub


class World:
    """Counts what was ever done in it."""

    def __init__(self, gravity=(0, -10)):
        self.gravity, self.bodies = gravity, 0


class Walker(Stub):
    """As Gymnasium's walkers are: the world is made once, and reset only empties it."""

    def __init__(self):
        super().__init__()
        self.world, self.destroyed = World(), 0

    def _destroy(self):
        self.destroyed += 1

    def reset(self, *, seed=None, options=None):
        self._destroy()
        self.world.bodies += 1
        return super().reset(seed=seed)

    def step(self, action):
        _, *rest = super().step(action)
        return np.full(2, self.world.bodies), *rest


Walker.__module__ = "gymnasium.envs.box2d.bipedal_walker"


def test_a_new_world_has_the_same_gravity():
    environment = make(Walker)
    walker = environment.env.unwrapped
    walker.world = World(gravity=(0, -4))
    environment.reset(seed=5)
    assert walker.world.gravity == (0, -4) and walker.world.bodies == 1


def test_a_walker_has_a_new_world_in_each_episode():
    environment = make(Walker)
    for _ in range(3):
        environment.reset(seed=5)
        assert environment.step([0.0]).obs.tolist() == [1.0, 1.0]
    assert environment.env.unwrapped.destroyed == 6  # the old world is emptied before it goes
    assert not isinstance(make(Stub).env, NewWorld)
