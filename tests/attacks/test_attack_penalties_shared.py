"""Penalties over several workers, real servers on a real Redis Cluster, and the commands about them."""

import time

import pytest

from tests.attacks.test_attack_addresses import (
    FORGED,
    KEY,
    MALLORY,
    NEIGHBOUR,
    OFF,
    bearer,
    break_framing,
    counted,
    is_let_in,
    until_let_in,
    until_refused,
)
from tests.attacks.wire import Peer
from tests.edge.test_control_commands import told
from tests.edge.workers import deployment, until_ready

SHARED_WITHIN_S = 1.0


@pytest.fixture
def settings(redis_cluster):
    return deployment(redis_cluster.url, exempt_addresses="127.0.0.1", penalty_base_s=60, **OFF)


async def started(serve, settings):
    server = serve(**settings)
    await until_ready(server)
    return server


def refused_after_s(server):
    """Knock until nobody answers; return how long that took."""
    began = time.monotonic()
    while is_let_in(server, MALLORY):
        assert time.monotonic() - began < 60, "still let in"
    return time.monotonic() - began


@pytest.mark.alone
async def test_who_is_kept_out_by_one_worker_is_kept_out_by_another_within_a_second(serve, settings, capsys):
    one, other = await started(serve, settings), await started(serve, settings)
    until_refused(one, MALLORY, break_framing, 25)
    took_s = refused_after_s(other)
    with capsys.disabled():
        print(f"\nkept out by the other worker after {took_s * 1000:.0f} ms", end=" ")
    assert took_s <= SHARED_WITHIN_S
    assert is_let_in(other, NEIGHBOUR)
    assert counted(other, "penalties_total") == 0, "it was earned elsewhere"


async def test_a_worker_that_comes_later_knows_whom_to_keep_out(serve, settings):
    one = await started(serve, settings)
    until_refused(one, MALLORY, break_framing, 25)
    later = await started(serve, settings)
    assert refused_after_s(later) <= SHARED_WITHIN_S


@pytest.mark.alone
async def test_a_time_out_earned_elsewhere_counts_for_the_next(serve, settings):
    settings = {**settings, "penalty_base_s": 0.3, "penalty_half_life_s": 3600}
    one, other = await started(serve, settings), await started(serve, settings)
    until_refused(one, MALLORY, break_framing, 25)
    refused_after_s(other)
    until_let_in(other, MALLORY)
    until_refused(other, MALLORY, break_framing, 25)
    assert until_let_in(other, MALLORY) >= 0.3, "twice the base, less what the knocking took"


async def test_an_operator_sees_who_is_kept_out_and_may_pardon_on_all_workers(serve, settings):
    one, other = await started(serve, settings), await started(serve, settings)
    assert await told(settings, "penalties") == []
    until_refused(one, MALLORY, break_framing, 25)
    refused_after_s(other)
    (line,) = await told(settings, "penalties")
    assert (line["address"], line["times"]) == (MALLORY, 1)
    assert 40 < line["seconds"] <= 60
    assert await told(settings, "penalties", "--free", MALLORY) == [{"workers": 2}]
    assert is_let_in(one, MALLORY)
    assert is_let_in(other, MALLORY)
    assert await told(settings, "penalties") == []


async def test_whom_a_revocation_closes_has_not_offended(serve, settings):
    settings = {**settings, "jwt_secret": KEY, "max_connections_per_user": 100}
    server = await started(serve, settings)
    peers = [Peer(server, source=MALLORY).upgrade("/ws", bearer(FORGED)) for _ in range(40)]
    await told(settings, "revoke", "--user", "alice")
    for peer in peers:
        assert peer.read_close() == 4500
        peer.socket.close()
    assert is_let_in(server, MALLORY)
    assert counted(server, 'offences_total{offence="bad_token"}') == 0
