"""zstd, which rosbags brings with it: of Python itself from 3.14 on, before that its backport."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_START = b"\x28\xb5\x2f\xfd"
decompress_zstd, open_zstd = zstd.decompress, zstd.open
