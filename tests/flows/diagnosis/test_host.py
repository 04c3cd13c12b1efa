from pathlib import Path

from flows.diagnosis import host
from tasks.runtime.settings import Settings


def test_judge_disk_names_the_settings_of_the_places_that_are_full() -> None:
    places = [(Path("/a"), "STILLHOUSE_HOME", 5_000_000_000), (Path("/b"), "STILLHOUSE_STORE", 1_000_000_000)]

    assert host.judge_disk(places[:1]).state == "ok"
    found = host.judge_disk(places)
    assert (found.state, found.detail) == ("note", "5.0 GB free at /a, 1.0 GB free at /b")
    assert found.remedy == "free space, or set STILLHOUSE_STORE to a larger disk"


def test_disk_looks_once_at_each_file_system_also_where_the_folders_are_made_later(tmp_path: Path) -> None:
    found = host.disk(Settings(home=tmp_path / "later" / "home"))

    assert found.detail.count("GB free at") == 1
    assert found.detail.endswith(str(tmp_path))


def test_data_says_what_to_do_without_a_checkout_and_without_the_rows(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, project=tmp_path)

    assert "STILLHOUSE_PROJECT" in host.data(settings).remedy
    (tmp_path / "data.dvc").write_text(f"outs: [{{md5: {'0' * 32}.dir, path: data}}]")
    assert (host.data(settings).state, "data pull" in host.data(settings).remedy) == ("note", True)
    (tmp_path / "data").mkdir()
    assert host.data(settings).state == "ok"


def test_gpu_is_a_note_where_there_is_no_driver(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.gpu().state == "note"

    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'A GPU, 81559 MiB'\n")
    driver.chmod(0o755)
    assert host.gpu().detail == "A GPU, 81559 MiB"
    driver.write_text("#!/bin/sh\necho 'no driver'; exit 9\n")
    assert (host.gpu().state, host.gpu().detail) == ("note", "nvidia-smi fails: no driver")
