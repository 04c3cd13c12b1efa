from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stages_start_on_ray_and_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from benchmarks.ray_site import on_ray
    from tasks.contracts.errors import UserError
    from tasks.runtime.settings import current_settings

    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path))
    current_settings.cache_clear()
    try:
        found = on_ray("starts", {"repeats": 1})
    except UserError as error:
        pytest.skip(str(error))
    finally:
        monkeypatch.undo()
        current_settings.cache_clear()
    assert set(found) == {"fresh interpreter", "forked", "Ray, a CPU", "Ray, a logical GPU"}
    assert all(len(milliseconds) == 1 and milliseconds[0] > 0 for milliseconds in found.values())
