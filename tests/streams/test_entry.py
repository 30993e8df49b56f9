import subprocess
import sys

import pytest

from driftline.streams import entry


def test_the_command_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "driftline.streams.cli", raising=False)
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match=r"click is missing.*pip install 'driftline\[server\]'"):
        entry.main()


SDK_ALONE = """
import subprocess
import sys
from driftline.producers import SignalListener, Tracer
tracer = Tracer("app", enabled=False)
with tracer.trace("m") as call:
    call.output_text = "fine"
Tracer("app")._encode(call.event)
known = {"aiokafka", "annotated_types", "async_timeout", "cramjam", "driftline", "msgspec", "packaging", "pydantic",
         "pydantic_core", "tenacity", "typing_extensions", "typing_inspection", "cython_runtime"}
top = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - known
print(*sorted(name for name in top if not name.startswith("_")))
"""


def test_the_sdk_needs_nothing_of_the_extra() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SDK_ALONE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
