"""The JSON scanner for C callers; `envelope.pyi` says what it takes and returns."""
from realtime.native.message cimport Span
from realtime.native.scanner cimport Scanner

cpdef list scan(bytes frame, Py_ssize_t max_messages, Py_ssize_t max_depth=*)
cdef int scan_only(Scanner* s, Span* fields) noexcept nogil
