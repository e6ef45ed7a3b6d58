"""An engine says that it is there until LMCache's own heartbeat does."""

import threading

from infbox_cake.presence import Presence

WAITED = 10.0  # seconds; a busy machine may need some


class Server:
    """What answers so many pings, and then no more."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.pinged = 0
        self.was_pinged_thrice = threading.Event()
        self.is_taken_over = False
        self.lost = 0

    def ping(self) -> bool:
        self.pinged += 1
        if self.pinged == 3:
            self.was_pinged_thrice.set()
        return self.pinged <= self.answers

    def lose(self) -> None:
        self.lost += 1


def started(server: Server) -> Presence:
    presence = Presence(server.ping, lambda: server.is_taken_over, server.lose, interval=0.01)
    presence.start()
    return presence


def over(presence: Presence) -> bool:
    presence.join(WAITED)
    return not presence.is_alive()


def test_an_idle_engine_goes_on_saying_that_it_is_there() -> None:
    server = Server(answers=10**9)
    presence = started(server)
    assert server.was_pinged_thrice.wait(WAITED)
    assert presence.is_alive()
    presence.end()
    assert over(presence)
    assert server.lost == 0


def test_it_ends_once_lmcaches_own_heartbeat_has_started() -> None:
    server = Server(answers=10**9)
    presence = started(server)
    server.is_taken_over = True
    assert over(presence)
    assert server.lost == 0


def test_a_server_that_is_away_is_told_once() -> None:
    server = Server(answers=2)
    assert over(started(server))
    assert (server.pinged, server.lost) == (3, 1)


def test_nothing_is_told_of_a_server_that_goes_while_the_engine_ends() -> None:
    server = Server(answers=10**9)

    def ping() -> bool:
        presence.end()
        return False

    presence = Presence(ping, lambda: False, server.lose, interval=0.01)
    presence.start()
    assert over(presence)
    assert server.lost == 0
