"""Made-up studies, and what a written report says."""

import json
from html.parser import HTMLParser

from tests.figures.make_run import evaluation, make_run


def make_study(folder, name="baselines", trials=(), *, planned=(), varied=(), source=None):
    """A study of runs that exist in its folder, and of planned ones that do not."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(trial.name for trial in trials), *planned]
    content = {
        "format_version": 1,
        "name": name,
        "trials": [{"name": trial} for trial in names],
        "varied": list(varied),
    }
    if source is not None:
        content["source"] = source
    (folder / "study.json").write_text(json.dumps(content))
    return folder


def make_grid(folder, algorithms=("dime", "sac"), envs=("dm_control/dog-run", "Ant-v5"), **options):
    """A study of a run per algorithm and environment."""
    runs = [
        make_run(
            folder / f"{env.replace('/', '-')}-{algorithm}",
            env,
            algorithm,
            offset=40.0 * place,
            **options,
        )
        for env in envs
        for place, algorithm in enumerate(algorithms)
    ]
    return make_study(folder, trials=runs)


def set_status(run, state, reason=None, env_step=1500, num_env_steps=1500, process=None):
    content = {
        "state": state,
        "reason": reason,
        "env_step": env_step,
        "num_env_steps": num_env_steps,
        "wall_time_s": env_step / 10,
        "failed_seeds": {},
        "process": process,
    }
    (run / "status.json").write_text(json.dumps(content))


def set_provenance(run, command=("/usr/bin/dime", "train"), **changes):
    start = {
        "env_step": 0,
        "time": "2026-01-02T03:04:05+00:00",
        "command": list(command),
        "dime": "1.2.3",
        "git_commit": "abc123",
        "python": "3.11.9",
        "platform": "Linux-6.1",
        "device": "Fast GPU",
        "backend": "gpu",
        "versions": {"jax": "0.10.2"},
    }
    (run / "provenance.json").write_text(json.dumps({"starts": [start | changes]}))


def append_evaluations(run, step, seeds=(0, 1, 2), mode="stochastic"):
    with (run / "evaluations.jsonl").open("a") as file:
        for seed in seeds:
            file.write(json.dumps(evaluation(step, seed, mode)) + "\n")


class Read(HTMLParser):
    """A page as a browser would take it apart: elements, texts by id, embedded data."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.scripts = [], {}, []
        self._open = []
        self.feed(html)
        self.close()
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "link", "input", "br"):
            self._open.append((tag, attributes.get("id")))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._open[-1][0] == tag, f"{self._open[-1]} is closed by {tag}"
        self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1][0] == "script":
            self.scripts[-1] += data
        for key in {key for _, key in self._open if key}:
            self.texts[key] = f"{self.texts.get(key, '')} {data}"

    def text(self, part):
        """The visible text of the element with this id."""
        return " ".join(self.texts.get(part, "").split())


def read(path):
    return Read(path.read_text())
