"""What an environment's observations and actions look like, and how they become flat arrays.

The learner sees float32 vectors and actions in [-1, 1]; the environment keeps its own structure,
units, shapes and dtypes. `Spaces` converts between the two. It is plain data, so that a run can
record it and a loaded policy can use it without the environment.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import gymnasium
import numpy as np

from dime.errors import DimeError, describe

_FLOAT_DTYPES = ("float16", "float32", "float64")
_MAX_SIZE = 2**31  # of an array
_MAX_AXES = 32
_NEEDED = "a Box of real numbers with finite bounds is needed"
_PAGE = "See docs/environments.md."


@dataclass(frozen=True)
class Leaf:
    """One array inside an observation; `path` is the keys (Dict) and indices (Tuple) to it."""

    path: tuple[str | int, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many numbers the leaf holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class Spaces:
    """The observation layout and the action box of one environment.

    Leaves are in the space's own key order; bounds are flattened in C order. `DimeError` if the
    observation or the action is empty or too large, actions are not floats, or their bounds are not
    finite or leave no room.

    >>> from dime.envs import make_env
    >>> spaces = Spaces.of(make_env("Pendulum-v1"), "Pendulum-v1")
    >>> spaces.obs_dim, spaces.action_dim
    (3, 1)
    >>> spaces.to_env_action([0.5])
    array([1.], dtype=float32)
    """

    name: str
    observation: tuple[Leaf, ...]
    action_shape: tuple[int, ...]
    action_dtype: str
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]

    def __post_init__(self):
        for kind, size in (("observation", self.obs_dim), ("action", self.action_dim)):
            if not 0 < size < _MAX_SIZE:
                problem = f"an {kind} space of {size} numbers; it must be 1 to 2**31 - 1."
                raise DimeError(f"{self.name} has {problem} {_PAGE}")
        if self.action_dtype not in _FLOAT_DTYPES:
            raise DimeError(
                f"{self.name} has actions of dtype {self.action_dtype}, not of "
                f"{', '.join(_FLOAT_DTYPES)}. {_PAGE}"
            )
        low, high = (bound.reshape(self.action_shape) for bound in self._bounds)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(high - low)
        usable = finite & (low < high)
        if not usable.all():
            at = tuple(int(i) for i in np.argwhere(~usable)[0])
            problem = "a lower bound not below" if finite[at] else "bounds that are not finite"
            raise DimeError(
                f"{self.name} has an action space with {problem}: [{low[at]}, {high[at]}] at "
                f"index {at}; {_NEEDED}. {_PAGE}"
            )

    @classmethod
    def of(cls, env: gymnasium.Env, name: str) -> "Spaces":
        """Reads an environment's spaces, which must be Boxes (observations also Dicts, Tuples)."""
        box = env.action_space
        if not isinstance(box, gymnasium.spaces.Box):
            raise DimeError(f"{name} has the action space {box}; {_NEEDED}. {_PAGE}")
        leaves = tuple(_leaves(env.observation_space, name, ()))
        low, high = (tuple(bound.astype(float).ravel().tolist()) for bound in (box.low, box.high))
        return cls(name, leaves, tuple(map(int, box.shape)), str(box.dtype), low, high)

    @classmethod
    def from_json(cls, data: Any) -> "Spaces":
        """The inverse of `to_json`; `DimeError` for what is not a description of spaces."""
        try:
            leaves = [
                Leaf(_each(leaf["path"], str, int), _shape(leaf["shape"]), leaf["dtype"])
                for leaf in data["observation"]
            ]
            _each([data["name"], *(leaf.dtype for leaf in leaves)], str)
            bounds = (_each(data[f"action_{end}"], int, float) for end in ("low", "high"))
            low, high = (tuple(map(float, end)) for end in bounds)
            shape, dtype = _shape(data["action_shape"]), data["action_dtype"]
            return cls(data["name"], tuple(leaves), shape, dtype, low, high)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DimeError(f"Not a description of spaces ({error!r}): {data!r:.500}") from error

    def to_json(self) -> dict[str, Any]:
        """Everything, as dicts, lists, strings and numbers."""
        return asdict(self)

    def refuse_if_other(self, expected: "Spaces", where: str) -> None:
        """Raises `DimeError` if these, except for the name, are not those that `where` has."""
        if replace(self, name="") != replace(expected, name=""):
            raise DimeError(
                f"The environment's spaces are no longer those of {where}: {self.to_json()} now, "
                f"{expected.to_json()} then."
            )

    @cached_property
    def obs_dim(self) -> int:
        """Length of a flat observation."""
        return sum(leaf.size for leaf in self.observation)

    @cached_property
    def action_dim(self) -> int:
        """Length of a flat action."""
        return prod(self.action_shape)

    def flatten(self, obs: Any) -> np.ndarray:
        """One observation, or a batch of them, as a new float32 array (*batch, obs_dim).

        In a batch every leaf carries the same leading axes. Numbers too large for float32 become
        infinite. `DimeError` if a leaf is missing or has another shape than the space declares.
        """
        values = [self._value(obs, leaf) for leaf in self.observation]
        batch = values[0].shape[: values[0].ndim - len(self.observation[0].shape)]
        flat = np.empty((*batch, self.obs_dim), np.float32)
        start = 0
        with np.errstate(over="ignore"):
            for leaf, value in zip(self.observation, values, strict=True):
                if value.shape != (*batch, *leaf.shape):
                    leading = f" after the batch axes {batch}" if batch else ""
                    raise DimeError(
                        f"An observation of {self.name}{_at(leaf.path)}: expected shape "
                        f"{leaf.shape}{leading}, as its space declares, got {value.shape}."
                    )
                stop = start + leaf.size
                flat[..., start:stop] = value.reshape(*batch, leaf.size)
                start = stop
        return flat

    def to_env_action(self, action: Any) -> np.ndarray:
        """Actions (*batch, action_dim) from [-1, 1] to the environment's units, dtype and shape.

        -1 and 1 give the bounds exactly; what lies outside [-1, 1] gives a bound; NaN stays NaN.
        """
        action = np.asarray(action)
        self._require_action(action, self.action_dim)
        low, high = self._bounds
        middle, half_range = self.rescaling
        value = action * half_range + middle
        np.maximum(value, low, out=value)
        np.minimum(value, high, out=value)
        return value.astype(self.action_dtype).reshape(action.shape[:-1] + self.action_shape)

    def from_env_action(self, action: Any) -> np.ndarray:
        """The inverse of `to_env_action`: float32 (*batch, action_dim), the bounds at -1 and 1."""
        value = np.asarray(action, np.float64)
        self._require_action(value, *self.action_shape)
        batch = value.shape[: value.ndim - len(self.action_shape)]
        value = value.reshape(*batch, self.action_dim)
        low, high = self._bounds
        unit = 2.0 * (value - low) / (high - low) - 1.0  # exact at both ends
        return np.clip(unit, -1.0, 1.0).astype(np.float32)

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.action_low, np.float64), np.array(self.action_high, np.float64)

    @cached_property
    def rescaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Middle and half range; `to_env_action` cuts off what reaches beyond the bounds.

        Half the range is measured from the rounded middle, and rounded up if the sum would not
        reach a bound.
        """
        low, high = self._bounds
        middle = low + (high - low) / 2
        half_range = np.maximum(high - middle, middle - low)
        reaches = (middle + half_range >= high) & (middle - half_range <= low)
        return middle, np.where(reaches, half_range, np.nextafter(half_range, np.inf))

    def _value(self, obs: Any, leaf: Leaf) -> np.ndarray:
        what = f"An observation of {self.name}"
        try:
            for key in leaf.path:
                obs = obs[key]
            value = np.asarray(obs)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DimeError(f"{what} has no array{_at(leaf.path)} ({describe(error)}).") from error
        if value.dtype.kind not in "biuf":
            got = f"got dtype {value.dtype}"
            raise DimeError(f"{what}{_at(leaf.path)} must be of real numbers, {got}.")
        return value

    def _require_action(self, action: np.ndarray, *expected: int) -> None:
        batch = action.shape[: action.ndim - len(expected)]
        if action.shape != (*batch, *expected):
            raise DimeError(
                f"An action for {self.name}: expected shape {expected}, with any batch axes "
                f"before, got {action.shape}."
            )


def _each(values: Any, *kinds: type) -> tuple:
    """The values; `TypeError` unless each is of one of the kinds, which `True` never is an int."""
    if not all(type(value) in kinds for value in values):
        raise TypeError(f"{values!r:.80} are not all of type {kinds}")
    return tuple(values)


def _shape(sizes: Any) -> tuple[int, ...]:
    if len(sizes) > _MAX_AXES or not all(0 <= size < _MAX_SIZE for size in _each(sizes, int)):
        raise ValueError(f"{sizes!r:.80} is not a shape")
    return tuple(sizes)


def _at(path: tuple[str | int, ...]) -> str:
    return f" at {'/'.join(map(str, path))}" if path else ""


def _leaves(space: gymnasium.Space, name: str, path: tuple[str | int, ...]) -> Iterator[Leaf]:
    match space:
        case gymnasium.spaces.Box():
            yield Leaf(path, tuple(int(n) for n in space.shape), str(space.dtype))
        case gymnasium.spaces.Dict():
            for key, part in space.spaces.items():
                yield from _leaves(part, name, (*path, key))
        case gymnasium.spaces.Tuple():
            for index, part in enumerate(space.spaces):
                yield from _leaves(part, name, (*path, index))
        case _:
            raise DimeError(
                f"{name} has an observation space with {space}{_at(path)}; only Box, Dict and "
                f"Tuple can be observed. {_PAGE}"
            )
