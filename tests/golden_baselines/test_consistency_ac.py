"""Consistency-AC: the checks of Diffusion-QL, with the consistency model in its place."""

from . import pool, test_diffusion_ql
from .golden import every_array_is_read

pytestmark = pool.MARKS
NOT_COMPARED = {"const/*": "noise levels and the like; what follows from them is compared"}

algorithm = test_diffusion_ql.algorithm
config = test_diffusion_ql.config
agent = test_diffusion_ql.agent
start = test_diffusion_ql.start
training = test_diffusion_ql.training

test_losses = test_diffusion_ql.test_losses
test_values_and_targets = test_diffusion_ql.test_values_and_targets
test_first_gradients = test_diffusion_ql.test_first_gradients
test_networks_after_all_updates = test_diffusion_ql.test_networks_after_all_updates
test_choice_among_candidates = test_diffusion_ql.test_choice_among_candidates
test_gradient_through_the_chain = test_diffusion_ql.test_gradient_through_the_chain
test_behaviour_loss = test_diffusion_ql.test_behaviour_loss
test_every_array_is_read = every_array_is_read
