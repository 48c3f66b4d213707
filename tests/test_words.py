"""tools/words.py, which keeps texts in plain English: it finds what it should, and nothing in code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WORDS = Path(__file__).parent.parent / "tools" / "words.py"

PYTHON = '''"""A docstring that is made
anew."""
NAMES = {"nobody": None}
raise ValueError(f"{path} cannot "
                 "be had")
# by
# now
whom = 1
if value is None: pass
'''
MARKDOWN = """# Title

Nothing is wrong here, but here it
stands in the way, `whoever` does not.

```python
besides = 1
```
"""


def test_words_finds_phrases_in_texts_and_not_in_code(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "words.py").write_bytes(WORDS.read_bytes())
    (tmp_path / "a.py").write_text(PYTHON)
    (tmp_path / "b.md").write_text(MARKDOWN)
    command = [sys.executable, "tools/words.py", "a.py", "b.md"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = [line.split(": write")[0] for line in result.stdout.splitlines()]
    assert found == [
        "a.py:2: 'anew'",
        "a.py:3: 'nobody'",
        "a.py:4: 'cannot be had'",
        "a.py:6: 'by now'",
        "b.md:4: 'stands in'",
    ]
    assert result.returncode == 1
