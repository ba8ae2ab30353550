"""A policy that changes under a running worker: whole or not at all."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from realtime.core.audit import Action, Event, Outcome
from realtime.edge.policies import Policies
from realtime.errors import SettingsError
from realtime.policy import Policy
from realtime.settings import Settings
from tests.edge.workers import deployment

PRIVATE = '[[rooms]]\nrooms = ["chat:*"]\nprivate = true\n'


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(PRIVATE)
    return path


def test_who_follows_hears_of_now_and_of_each_change(path: Path):
    policies = Policies(Settings(policy_path=str(path)))
    heard: list[Policy] = []
    policies.follow(lambda policy: partial(heard.append, policy))
    path.write_text("")
    assert policies.reload()
    assert [len(policy.rooms) for policy in heard] == [1, 0]


def test_a_file_that_will_not_do_changes_nothing(path: Path):
    log = Log()
    policies = Policies(Settings(policy_path=str(path)), log)
    heard: list[Policy] = []
    policies.follow(lambda policy: partial(heard.append, policy))
    path.write_text("[acces]")
    assert not policies.reload()
    assert len(heard) == 1
    assert policies.current.rooms
    assert policies.failed_reloads == 1
    assert [(event.action, event.outcome) for event in log.events] == [(Action.RELOAD, Outcome.FAILED)]


def test_nothing_holds_while_one_follower_refuses(path: Path):
    policies = Policies(Settings(policy_path=str(path)))
    heard: list[Policy] = []
    policies.follow(lambda policy: partial(heard.append, policy))

    def refuse(policy: Policy) -> partial[None]:
        if not policy.rooms:
            raise SettingsError("there have to be rooms")
        return partial(lambda: None)

    policies.follow(refuse)
    path.write_text("")
    assert not policies.reload()
    assert len(heard) == 1
    assert policies.current.rooms


def test_the_start_needs_a_policy_that_will_do(path: Path):
    path.write_text("[acces]")
    with pytest.raises(SettingsError, match="did you mean access"):
        Policies(Settings(policy_path=str(path)))


def test_a_server_reads_its_policy_again_on_sighup(serve, path: Path):
    server = serve(policy_path=path)
    path.write_text("[acces]")
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line("reload refused.*did you mean access")
    path.write_text("")
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line("reloaded .*policy")


def test_a_supervisor_has_its_workers_read_it(serve, redis_cluster, path: Path):
    server = serve(**deployment(redis_cluster.url, workers=2, node="n", policy_path=path))
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line(r"n-1 realtime\.edge: reloaded")
    server.wait_for_line(r"n-2 realtime\.edge: reloaded")
