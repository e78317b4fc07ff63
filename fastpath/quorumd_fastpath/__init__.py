"""The byte work of quorumd, compiled: wire codec, CRC, log ring, WAL framing, state machine, batched UDP, WAL file.

`crc`, `wire`, `ring`, `walframe` and `apply` are pure (no system call), so the simulator runs the very code of
production; `udp`, `walfile` and `load` hold the system calls.
"""
