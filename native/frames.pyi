from dataclasses import dataclass
from typing import Final

OPCODES: Final[frozenset[int]]

def encode(opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False) -> bytes: ...
def unmask_buffer(buffer: bytearray | memoryview, mask: bytes, phase: int = 0) -> None: ...
def utf8_state(data: bytes, state: int = 0) -> int: ...
def close_code_allowed(code: int) -> bool: ...

@dataclass(frozen=True, slots=True)
class Text:
    payload: str

@dataclass(frozen=True, slots=True)
class Binary:
    payload: bytes

@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes

@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes

@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str

@dataclass(frozen=True, slots=True)
class Fail:
    code: int

class Reader:
    @property
    def frames(self) -> int: ...
    def __init__(
        self, *, max_message_bytes: int = ..., max_fragments: int = ..., inflate: bool | None = None
    ) -> None: ...
    def receive(self, data: bytes) -> list[Text | Binary | Ping | Pong | Close | Fail]: ...
