"""How the daemon's deaths are chosen."""

from tests.chaos.daemon_runs import OFFSETS, POINTS, deaths


def test_deaths_follow_from_the_seed() -> None:
    assert deaths(7, 20) == deaths(7, 20)
    assert deaths(7, 20) != deaths(8, 20)
    assert len([death for death in deaths(7, 20) if not death.gently]) == 20
    assert any(death.gently for death in deaths(7, 1))
    assert deaths(7, 0) == []


def test_the_runs_of_neighbouring_seeds_sweep_every_point_and_offset() -> None:
    struck = {(death.point, death.offset) for seed in range(4) for death in deaths(seed, 40) if death.point}
    assert struck == {(point, offset) for point in POINTS for offset in OFFSETS}
