"""A fault hits the requests and dispatches that it is meant for."""

from relay.sandbox.faults import Fault, Faults, GatewayFault


def test_a_fault_strikes_what_it_is_meant_for_as_often_as_it_is_meant_to() -> None:
    faults = Faults()
    faults.add(Fault("delay", method="POST", path=r"^/webhooks/\d+", count=2, skip=1))
    struck = [faults.strike("POST", "/webhooks/1/token") is not None for _ in range(5)]
    assert struck == [False, True, True, False, False]
    assert faults.strike("GET", "/webhooks/1/token") is None
    assert faults.strike("POST", "/channels/1") is None
    faults.add(Fault("status", when="after", count=None))
    assert all(faults.strike("GET", "/x") for _ in range(10))
    faults.clear()
    assert faults.strike("GET", "/x") is None
    faults.note("offline")
    assert faults.fired() == {"delay": 2, "status_after": 10, "offline": 1}


def test_chance_is_the_same_again_with_the_same_seed() -> None:
    def run() -> list[bool]:
        faults = Faults()
        faults.rng.seed(7)
        faults.add(Fault("status", count=None, probability=0.5))
        return [faults.strike("GET", "/x") is not None for _ in range(50)]

    assert run() == run()
    assert 5 < sum(run()) < 45


def test_a_fault_of_dispatches_waits_for_its_event() -> None:
    faults = Faults()
    faults.add_gateway(GatewayFault("duplicate", event="MESSAGE_CREATE"))
    assert faults.strike_dispatch("TYPING_START") is None
    assert faults.strike_dispatch("MESSAGE_CREATE") is not None
    assert faults.strike_dispatch("MESSAGE_CREATE") is None
    assert faults.fired() == {"gateway_duplicate": 1}
