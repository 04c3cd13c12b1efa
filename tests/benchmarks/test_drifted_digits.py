import numpy as np

from benchmarks.drifted_digits import drifted, drifted_digits


def test_drifted_turns_thickens_and_pales_a_stroke():
    image = np.zeros((1, 1, 8, 8), np.float32)
    image[0, 0, :, 3] = 1

    (changed,) = drifted(image)[:, 0]

    assert changed.min() >= 0.2 - 1e-6
    assert changed.max() <= 0.8 + 1e-6
    dark = changed > 0.5
    assert dark.sum() > 8, "thicker"
    columns = [np.flatnonzero(row).mean() for row in dark if row.any()]
    assert abs(columns[-1] - columns[0]) >= 1.5, "tilted"


def test_drifted_digits_share_no_scan_between_their_parts():
    parts = drifted_digits(0)
    counts = [len(part.y) for part in (parts.base, parts.live, parts.held_out)]
    assert sum(counts) == 1797
    assert len({row.tobytes() for row in np.concatenate([parts.base.x, parts.held_out_original.x])}) == 1247
    np.testing.assert_array_equal(drifted(parts.held_out_original.x), parts.held_out.x)
