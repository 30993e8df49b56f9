"""An INSERT's data as a file in memory, which the engine reads: written as it arrives, it is never held twice."""

import os
import tempfile
from types import TracebackType
from typing import Self


class Spool:
    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file = open(os.memfd_create("insert"), "wb", buffering=0)  # noqa: SIM115 (closed by `close`)
            self.path = f"/proc/self/fd/{self._file.fileno()}"
        else:
            named = tempfile.NamedTemporaryFile(buffering=0)  # noqa: SIM115 (closed by `close`)
            self._file, self.path = named, named.name  # type: ignore[assignment]  # a wrapper round a file
        self.size = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.size += len(data)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
