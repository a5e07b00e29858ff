"""How many files of relay/ one plain line of chat passes (`python -m tests.trace`): the number must not grow."""

import json
import subprocess
import sys

from tests.support.patience import PATIENCE

BAR = {"to_matrix": 64, "to_discord": 76}
"""Files today (71 and 82 on 27 November 2026). Lower it when the count falls; CONTRIBUTING says what may raise it.

Raised by one each way since, each time: who is linked, or has opted out; who is unwanted, as moderators said
(`core/moderation`); statements that are compiled once (`store/prepared.py`); whether another relay on the same accounts
holds the pair (`core/claims`), of which sync tells (`adapters/matrix/register.py`); what is marked as for adults
(`core/moderation/age_marks.py`)."""

FEWEST = 14
"""With fewer, the tracer has lost sight of the line."""


def test_one_line_of_chat_passes_no_more_files_than_it_did() -> None:
    command = [sys.executable, "-m", "tests.trace", "--to", "both", "--lines", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE)
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)["lines"]
    counts = {direction: way["totals"]["files"] for direction, way in lines.items()}
    assert counts.keys() == BAR.keys()
    for direction, way in lines.items():
        assert FEWEST < counts[direction] <= BAR[direction], "\n".join(file["file"] for file in way["files"])
        assert {"core", "store", "adapters/discord", "adapters/matrix"} <= {
            "/".join(part.split("/")[:2]) if part.startswith("adapters") else part.split("/")[0]
            for part in way["files_by_part"]
        }
